"""What `hf:org/name[@revision][:file-or-quant]` says.

Pure. `Source.parse` takes the text with or without `hf:`; where a model comes from by its
catalogue entry, `Source.of` knows.
"""

import re
from dataclasses import dataclass
from typing import Final

from cortex.catalogue import HUB, ModelSpec

HF: Final = HUB
MAIN: Final = "main"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_LONG: Final = r"[A-Za-z0-9][A-Za-z0-9_./-]{0,254}"
_SOURCE: Final = re.compile(
    rf"(?:hf:)?(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_LONG}))?(?::(?P<pick>{_LONG}))?"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A repo at a revision, and what of it: a file's name, a quant, or None for all there is."""

    repo: str
    revision: str = MAIN
    pick: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{HF}{self.repo}{revision}" + (f":{self.pick}" if self.pick else "")

    @property
    def pinned(self) -> bool:
        """Whether it names a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    @classmethod
    def parse(cls, text: str) -> "Source | None":
        """None when the text is no hub source."""
        match = _SOURCE.fullmatch(text)
        if match is None or ".." in re.split("[/:@]", text):
            return None
        return cls(match["repo"], match["revision"] or MAIN, match["pick"])

    @classmethod
    def of(cls, spec: ModelSpec) -> "Source | None":
        """Where the hub has `spec`; None when it lies elsewhere. Without a source its id counts,
        where that may be the name of a repo."""
        if spec.source is not None and not spec.source.startswith(HF):
            return None
        found = cls.parse(spec.source or spec.id)
        if found is None:
            return None
        revision = spec.revision if spec.revision is not None else found.revision
        return cls(found.repo, revision, found.pick if spec.quant is None else spec.quant)
