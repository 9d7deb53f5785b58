"""A client is told the same, whether a piece was told by a template of bytes or as any other event."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.ask import Ask
from cortex.events import (
    Event,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.neuron.account import Account
from cortex.neuron.narration import Narration
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.wire import sse
from cortex.wire.openai import Reply

WORDS = st.sampled_from(("a", " b", "\n", '"\\', "é", "🙂", "\u2028", "%d", "\x85", "\x00"))
LOGPROBS = st.sampled_from(
    ((), (TokenLogprob("a", -0.5),), (TokenLogprob("a", -0.5), TokenLogprob("é", -1.0)))
)
PIECES = st.one_of(
    st.builds(Text, WORDS, LOGPROBS),
    st.builds(Text, WORDS),
    st.builds(Thought, WORDS),
)
CALLS = st.just(ToolCall("call_1", "f", '{"a": "%d"}'))


class Paper:
    """A stream, as far as a narration knows of one."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self._held = b""

    def hold(self, *pieces: sse.Frame) -> None:
        self._held += sse.render(*pieces)

    def push(self, data: bytes) -> bool:
        self.said.append(self._held + data)
        self._held = b""
        return True


def told(dialect: Dialect, reply: Reply, turns: Iterable[Sequence[Event]], *, single: bool) -> list[bytes]:
    """What each turn comes to. One that is not `single` is told event by event."""
    assert dialect.speech is not None
    paper = Paper()
    narration = Narration(
        dialect.speech(reply),
        paper,  # type: ignore[arg-type]
        Account(0.0, "m", "n1", first=0.0),
        single=single,
    )
    for turn in turns:
        assert narration.tell(turn)
    return paper.said


@pytest.mark.parametrize("dialect", [CHAT, TEXT, RESPONSES, MESSAGES], ids=lambda dialect: dialect.name)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_piece_told_by_a_template_is_the_event_that_it_stands_for(
    dialect: Dialect, data: st.DataObject
) -> None:
    pieces = PIECES if dialect is TEXT else PIECES | CALLS
    events: list[Event] = [Started(), Prefilled(7, 3), *data.draw(st.lists(pieces, max_size=12))]
    events.append(Stopped("stop", Usage(7, 3, 2)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events) - 1), max_size=4)))
    turns = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    logprobs = data.draw(st.sampled_from((None, 0, 2)))
    usage, echoes = data.draw(st.booleans()), dialect is TEXT and data.draw(st.booleans())
    ask = Ask("m", stream=True, logprobs=logprobs, include_usage=usage)
    echo = ("p\u2028",) if echoes else ()
    reply = Reply(
        "id_1", "m%d\u2028", 1, include_usage=usage, logprobs=logprobs, echo=echo, ask=ask, request_id="r"
    )
    quick = told(dialect, reply, turns, single=True)
    assert quick == told(dialect, reply, turns, single=False)
    assert "\u2028".encode() not in b"".join(quick)
