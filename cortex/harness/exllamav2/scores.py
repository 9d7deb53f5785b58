"""How likely a model held each token that was chosen, and what it would have said instead.

Natural logarithms of what the model itself computed, in single precision, before any penalty, bias
or grammar; tokens that only fill the last rows of its weights take no part. A token that ends
inside a character has no text of its own: the one that completes the character has all of it.
"""

from collections.abc import Callable
from typing import Any, Final

from cortex.events import TokenLogprob
from cortex.harness.exllamav2.runtime import Library
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.text.detokenise import Detokeniser

IMPOSSIBLE: Final = -9999.0  # JSON has no minus infinity


class Scorer:
    """One answer's scores. `look` sees the logits, then `choose` hears what became of them."""

    def __init__(
        self,
        library: Library,
        vocabulary: Vocabulary,
        wanted: int,
        hidden: frozenset[int],
        scored: Callable[[TokenLogprob], None],
    ) -> None:
        self._torch, self._vocabulary, self._wanted, self._hidden = library.torch, vocabulary, wanted, hidden
        self._scored = scored
        self._text = Detokeniser()
        self._logits: Any = None
        self._total = 0.0
        self._top: tuple[tuple[str, float], ...] = ()

    def look(self, logits: Any) -> None:  # noqa: ANN401 - a row of single precision
        """The next token is chosen by these, which stay as they are until it is."""
        self._logits = logits
        most = logits.max()
        self._total = float(most + (logits - most).exp_().sum().log())
        if self._wanted:
            values, tokens = self._torch.topk(logits, min(self._wanted, len(logits)))
            self._top = tuple(
                (self._spelt(token), self._clamped(value))
                for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
            )

    def choose(self, token: int) -> None:
        """Tells the score of `token`, which was chosen."""
        text = "" if token in self._hidden else self._text.feed(self._vocabulary.piece(token))
        self._scored(TokenLogprob(text, self._clamped(float(self._logits[token])), self._top))

    def _clamped(self, logit: float) -> float:
        return max(logit - self._total, IMPOSSIBLE)

    def _spelt(self, token: int) -> str:
        return self._vocabulary.piece(token).decode("utf-8", "replace")
