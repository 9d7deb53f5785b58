"""What goes in through one dialect and out through another loses nothing that both can say.

Every loss has a name, a row in docs/dialects.md that says what cortex does about it, and an example here.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.ask import Ask, Tool
from cortex.errors import Unsupported
from cortex.events import Event, Prefilled, Started, Stopped, Text, Thought, TokenLogprob, ToolCall, Usage
from cortex.translator import openai_hear
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.translator.openai_manners import CORTEX, MANNERS
from cortex.translator.openai_write import write
from cortex.wire import sse
from cortex.wire.openai import Reply
from cortex.wire.openai_heard import MOST_TOKENS
from cortex.wire.sse_reading import EventReader
from tests import asks, ears
from tests.asks import SCHEMA
from tests.losses import ANSWERED, HI, READ, REFUSED, RETOLD, UNSAID, Loss, after, merged
from tests.play import play, speaking

DOCS: Final = Path(__file__).parent.parent / "docs" / "dialects.md"
DIALECTS: Final[dict[str, tuple[Dialect, Callable[[Ask], bytes]]]] = {
    "chat": (CHAT, asks.chat),
    "messages": (MESSAGES, asks.messages),
    "responses": (RESPONSES, asks.responses),
}
EARS: Final[dict[str, tuple[Dialect, Callable[[bytes], list[Event]]]]] = {
    "chat": (CHAT, ears.chat),
    "chat whole": (CHAT, ears.chat_whole),
    "text": (TEXT, ears.text),
    "text whole": (TEXT, ears.text_whole),
    "messages": (MESSAGES, ears.messages),
    "messages whole": (MESSAGES, ears.messages_whole),
    "responses": (RESPONSES, ears.responses),
    "responses whole": (RESPONSES, ears.responses_whole),
}
thoroughly: Final = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


# -- requests


@pytest.mark.parametrize("where", DIALECTS)
@thoroughly
@given(ask=asks.asks())
def test_what_a_dialect_has_words_for_is_in_the_ask(where: str, ask: Ask) -> None:
    dialect, body = DIALECTS[where]
    assert dialect.read(body(ask)) == after(UNSAID.values(), where, ask)


@pytest.mark.parametrize("where", DIALECTS)
def test_an_agent_may_have_the_tools_of_many_servers(where: str) -> None:
    """One MCP server can bring a hundred, and an agent is told to use several."""
    dialect, body = DIALECTS[where]
    ask = Ask("m", HI, tools=tuple(Tool(f"mcp__{index}", "d", SCHEMA) for index in range(600)))
    assert len(dialect.read(body(ask)).tools) == 600


@pytest.mark.parametrize("where", DIALECTS)
@thoroughly
@given(ask=asks.asks())
def test_what_came_in_by_any_dialect_is_told_to_a_neuron_that_knows_chat_alone(where: str, ask: Ask) -> None:
    """As the gateway tells it, and as that neuron reads it."""
    dialect, body = DIALECTS[where]
    heard = dialect.read(body(replace(ask, n=1)))
    assert CHAT.read(write(heard, heard.model, CORTEX)) == after(RETOLD.values(), "chat", heard)


@thoroughly
@given(
    ask=st.builds(
        Ask,
        model=st.just("m"),
        prompt=st.text(min_size=1, max_size=9) | st.lists(st.integers(0, 9), min_size=1).map(tuple),
        sampling=asks.SAMPLINGS,
        max_tokens=st.integers(1, 2**40),
        stop=st.lists(st.text("ab", min_size=1), max_size=2).map(tuple),
        logprobs=st.none() | st.integers(0, 5),
        stream=st.just(True),
        include_usage=st.just(True),
    )
)
def test_a_plain_completion_is_told_to_the_letter(ask: Ask) -> None:
    assert TEXT.read(write(ask, "m", CORTEX)) == ask


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_would_ignore_is_refused_by_its_name(name: str) -> None:
    ask, kinds, param = REFUSED[name]
    for kind in kinds:
        with pytest.raises(Unsupported) as caught:
            write(ask, "m", MANNERS[kind])
        assert caught.value.param == param


@pytest.mark.parametrize("name", READ)
def test_bodies_that_say_the_same_are_one_ask(name: str) -> None:
    where, said, plain = READ[name]
    assert said != plain
    read = DIALECTS[where][0].read
    body: dict[str, Any] = {"model": "m"} | ({} if where != "messages" else {"max_tokens": 5})
    assert read(json.dumps(body | said).encode()) == read(json.dumps(body | plain).encode())


# -- answers

_SCORES: Final = st.lists(
    st.builds(
        TokenLogprob,
        asks.TEXTS,
        st.floats(-9000, 0),
        st.lists(st.tuples(asks.TEXTS, st.floats(-9000, 0)), max_size=2, unique_by=lambda top: top[0]).map(
            tuple
        ),
    ),
    max_size=2,
).map(tuple)
_COUNTS: Final = st.integers(0, MOST_TOKENS)


@st.composite
def answers(draw: st.DrawFn, *, calls: bool = True) -> tuple[Event, ...]:
    """One answer as an engine gives it: started, said, stopped once."""
    pieces: list[Event] = []
    for _ in range(draw(st.integers(0, 5))):
        words = draw(asks.TEXTS.filter(bool))
        kinds: list[Event] = [Text(words, draw(_SCORES)), Thought(words)]
        if calls:
            key, arguments = draw(asks.KEYS), asks.compact(draw(asks.ARGUMENTS))
            kinds.append(ToolCall(key, draw(st.sampled_from(["now", "agents__close"])), arguments))
        pieces.append(draw(st.sampled_from(kinds)))
    called = any(isinstance(piece, ToolCall) for piece in pieces)
    prompt, completion = draw(_COUNTS), draw(_COUNTS)
    usage = Usage(
        prompt,
        draw(st.integers(0, prompt)),
        completion,
        draw(st.integers(0, completion)),
        draw(st.booleans()),
    )
    reason = "tool_calls" if called else draw(st.sampled_from(["stop", "length"]))
    stop = draw(st.none() | asks.WORDS) if reason == "stop" else None
    return (Started(), Prefilled(prompt, usage.cached), *pieces, Stopped(reason, usage, stop))  # type: ignore[arg-type]


def _spoken(dialect: Dialect, events: tuple[Event, ...], *, whole: bool) -> bytes:
    reply = Reply("id_1", "m", 1, include_usage=True, logprobs=20)
    return dialect.whole(reply, events) if whole else sse.render(*play(speaking(dialect, reply), events))


def _content(events: tuple[Event, ...]) -> tuple[Event, ...]:
    return merged(event for event in events if not isinstance(event, Started | Prefilled))


@pytest.mark.parametrize("where", EARS)
@thoroughly
@given(data=st.data())
def test_a_client_hears_what_the_engine_said(where: str, data: st.DataObject) -> None:
    dialect, ear = EARS[where]
    events = data.draw(answers(calls=dialect is not TEXT))
    heard = ear(_spoken(dialect, events, whole=where.endswith("whole")))
    assert merged(heard) == merged(after(ANSWERED.values(), where, _content(events)))


def _as_a_gateway(stream: bytes, logprobs: int | None = None) -> list[Event]:
    machine, reader = openai_hear.hear(openai_hear.Hearing(logprobs=logprobs)), EventReader()
    heard = list(next(machine))
    for piece in reader.feed(stream):
        heard += machine.send(piece)
    return heard


@thoroughly
@given(events=answers(), scored=st.booleans())
def test_a_gateway_hears_what_a_neuron_said_in_chat(events: tuple[Event, ...], scored: bool) -> None:
    """With the scores where they are wanted: then an engine has some for the first text."""
    texts = [event for event in events if isinstance(event, Text)]
    wanted = 20 if scored and texts and texts[0].logprobs else None
    heard = _as_a_gateway(_spoken(CHAT, events, whole=False), wanted)
    said = after(ANSWERED.values(), "heard", after(ANSWERED.values(), "chat", _content(events)))
    assert _content(tuple(heard)) == (said if wanted else ANSWERED["no-scores"].lose(said))


# -- the table


def _rows() -> list[str]:
    return re.findall(r"^\| `([a-z-]+)` \|", DOCS.read_text(), re.MULTILINE)


def test_each_loss_has_its_row_and_each_row_its_test() -> None:
    named = [*UNSAID, *RETOLD, *REFUSED, *ANSWERED, *READ]
    assert sorted(_rows()) == sorted(named)


@pytest.mark.parametrize("name", [*UNSAID, *RETOLD])
def test_a_request_of_each_row_is_less_afterwards(name: str) -> None:
    loss: Loss[Ask] = {**UNSAID, **RETOLD}[name]
    assert loss.lose(loss.example) != loss.example
    assert loss.lose(loss.lose(loss.example)) == loss.lose(loss.example)


@pytest.mark.parametrize("name", ANSWERED)
def test_an_answer_of_each_row_is_less_afterwards(name: str) -> None:
    loss = ANSWERED[name]
    for where in loss.where:
        dialect, ear = EARS.get(where, (CHAT, _as_a_gateway))
        heard = _content(tuple(ear(_spoken(dialect, loss.example, whole=where.endswith("whole")))))
        assert heard != loss.example, where
        assert heard == merged(after(ANSWERED.values(), where, loss.example))


@pytest.mark.parametrize(
    ("name", "where"), [(name, where) for name in UNSAID for where in UNSAID[name].where]
)
def test_a_row_is_true_of_each_dialect_that_it_names(name: str, where: str) -> None:
    """Without it, the example would come through whole."""
    dialect, body = DIALECTS[where]
    example = UNSAID[name].example
    others = [loss for other, loss in UNSAID.items() if other != name]
    assert dialect.read(body(_sendable(example))) != after(others, where, _sendable(example))


def _sendable(ask: Ask) -> Ask:
    """`ask` with true pictures."""
    turns = (
        replace(turn, images=tuple(replace(image, data=asks.PIXEL) for image in turn.images))
        for turn in ask.messages
    )
    return replace(ask, messages=tuple(turns))
