"""In which dialect a request is asked of which neuron.

A neuron tells the dialects that it speaks. One that speaks the client's gets the client's own
bytes. To one that speaks OpenAI's chat alone what can be said there is told in it, and the
answer is told back. Who can be asked in neither way is no place for the request.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from cortex.ask import Ask
from cortex.metrics.names import Dialect as Label
from cortex.translator.dialects import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, TEXT, Dialect

# A neuron that tells nothing of it speaks what every one always spoke.
USUAL: Final = frozenset({CHAT.name, TEXT.name})


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One inference route, of which there is one each. `retold`: what is asked there can be said in OpenAI's
    chat as well. `counts`: it is answered without an answer being made."""

    dialect: Dialect
    path: str
    retold: bool = False
    counts: bool = False

    @property
    def label(self) -> Label:
        """What metrics call it: counts take no seat, and are none of the dialect's answers."""
        return "anthropic_count" if self.counts else self.dialect.name

    def read(self, body: bytes, model: str) -> Ask:
        """The request in neutral words, for the model of that id."""
        ask = self.dialect.read(body)
        return ask if ask.model == model else replace(ask, model=model)


CHATS: Final = Way(CHAT, CHAT.path)
TEXTS: Final = Way(TEXT, TEXT.path)
ANTHROPIC: Final = Way(MESSAGES, MESSAGES.path, retold=True)
ITEMS: Final = Way(RESPONSES, RESPONSES.path, retold=True)
COUNTS: Final = Way(MESSAGES, "/v1/messages/count_tokens", counts=True)
VECTORS: Final = Way(EMBEDDINGS, EMBEDDINGS.path)
WAYS: Final = (CHATS, TEXTS, ITEMS, ANTHROPIC, COUNTS, VECTORS)


class Tongues:
    """What each neuron speaks. Asked with each request, so that nothing here grows with the fleet."""

    def __init__(self) -> None:
        self._spoken: dict[str, frozenset[str]] = {}
        self._mute: dict[Way, frozenset[str]] = dict.fromkeys(WAYS, frozenset())
        # Changes whenever any of this does.
        self.edition = 0

    def learn(self, neuron: str, dialects: Iterable[str]) -> None:
        """What `neuron` says that it speaks."""
        spoken = frozenset(dialects) or USUAL
        if self._spoken.get(neuron) == spoken:
            return
        self._spoken[neuron] = spoken
        self.edition += 1
        for way in WAYS:
            can = way.dialect.name in spoken or (way.retold and CHAT.name in spoken)
            self._mute[way] = self._mute[way] - {neuron} if can else self._mute[way] | {neuron}

    def forget(self, neuron: str) -> None:
        """`neuron` belongs to the fleet no longer."""
        self._spoken.pop(neuron, None)
        self.edition += 1
        self._mute = {way: mute - {neuron} for way, mute in self._mute.items()}

    def speaks(self, neuron: str, way: Way) -> bool:
        """Whether `neuron` takes the request as it stands."""
        return way.dialect.name in self._spoken.get(neuron, USUAL)

    def mute(self, way: Way) -> frozenset[str]:
        """Neurons that cannot be asked."""
        return self._mute[way]
