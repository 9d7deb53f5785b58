"""The gap between two texts, as models of code were taught to fill it.

No template tells how: a vocabulary either has a family's three markers, each as one token, or its
model was never taught it. What ends such an answer are tokens that a chat never sees, so they are
looked for like stop texts.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Infill:
    """The markers of one family: before the text ahead of the gap, before the one behind it, and where
    the answer begins. `ends` are what else its models write when the gap is filled."""

    ahead: str
    behind: str
    answer: str
    ends: tuple[str, ...]

    @property
    def markers(self) -> tuple[str, ...]:
        """Those that a vocabulary must have."""
        return self.ahead, self.behind, self.answer

    @property
    def stops(self) -> tuple[str, ...]:
        """Where the answer is over: a model that begins another gap has filled this one."""
        return *self.markers, *self.ends

    def prompt(self, ahead: str, behind: str) -> str:
        """What asks for the text between the two."""
        return f"{self.ahead}{ahead}{self.behind}{behind}{self.answer}"


FAMILIES: Final = (
    # Qwen, Granite, CodeGemma.
    Infill(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<|endoftext|>"),
    ),
    # StarCoder, Refact, and older Granite.
    Infill("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>", "<|endoftext|>")),
    # DeepSeek.
    Infill("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ("<｜end▁of▁sentence｜>",)),
)
