"""What is fuzzed, and what has to hold whatever comes.

Each target takes a tape. It raises nothing but AssertionError. What callers send is read, or refused with a
status below 500 in a short message that names what is wrong; what engines and neurons send is understood, or
told as an error of theirs. Whatever goes in, what comes out of it is bounded by it.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, Final

import msgspec

from cortex.ask import Ask, Message, Tool, ToolUse
from cortex.errors import LONGEST_WORDS, BadAsk, CortexError, Unfit, UpstreamFailed
from cortex.events import Event, Failed, Stopped, Text, Thought, TokenLogprob, Tokens, ToolCall
from cortex.text.projection import Projection
from cortex.text.template import ChatTemplate
from cortex.text.thinking import KINDS, Thinking
from cortex.text.toolcalls import reader
from cortex.translator import openai_errors
from cortex.translator.dialects import CHAT, DIALECTS, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.translator.openai_hear import Hearing, hear
from cortex.translator.openai_manners import CORTEX, MANNERS
from cortex.translator.openai_write import write
from cortex.wire import faults, keeping, neuron, reading, refusals, sse
from cortex.wire.fleet import FleetReport
from cortex.wire.openai import Reply, peek, rename
from cortex.wire.responses_trail import Trail
from cortex.wire.sse_reading import EventReader
from tests.call_forms import TOOLS
from tests.fuzz.bodies import corpus, mutated
from tests.fuzz.tape import Tape
from tests.recorded import FOLDER

MOST_MESSAGE: Final = LONGEST_WORDS
# What another engine says of its failure is told on, to its own bound.
MOST_TOLD: Final = 2500
Target = Callable[[Tape], None]
_TEMPLATES: Final = FOLDER.parent / "templates"


@cache
def _corpus() -> dict[str, list[Any]]:
    return corpus()


def refused(error: CortexError, said: bytes = b"") -> None:
    """A refusal names what is wrong, is short, and can be told in every dialect."""
    assert 400 <= error.status < 500, repr(error)
    assert error.param or error.message.startswith(("The body", "The request")), error.message
    assert len(error.message) <= MOST_MESSAGE, f"{len(error.message)} {error.message[:200]}"
    told(error, said)


def told(error: CortexError, said: bytes = b"") -> None:
    """An error can be told in every dialect, in few words."""
    assert error.message.strip()
    assert len(error.message) < MOST_TOLD, f"{len(error.message)} {error.message[:200]}"
    assert len(error.param or "") < MOST_TOLD
    assert not (len(said) > MOST_MESSAGE and said.decode("utf-8", "replace") in error.message)
    for dialect in ("openai", "anthropic", "responses"):
        assert json.loads(faults.body(error, dialect, "r"))["error"]
        assert sse.render(*faults.frames(error, dialect, "r"))


# -- what callers send


def asked(dialect: Dialect, path: str) -> Target:
    """A body of `dialect` is read, written for every kind of engine, and looked at by a gateway."""

    def target(tape: Tape) -> None:
        body = mutated(tape, _corpus()[path])
        _peeked(body)
        try:
            ask = dialect.read(body)
        except CortexError as error:
            refused(error, body)
            return
        # What is short as JSON can stand for much: a tool's schema, a text. It comes from the body.
        assert sum(len(turn.text) + len(turn.thought) for turn in ask.messages) <= 4 * len(body) + 100
        for manner in MANNERS.values():
            _written(ask, manner, len(body))

    return target


def _peeked(body: bytes) -> None:
    try:
        seen = peek(body)
        assert json.loads(rename(body, seen.model, "other")) is not None
    except CortexError as error:
        refused(error, body)
    except ValueError:
        pass  # what a gateway does not look at is for the neuron to judge: json has its own bounds
    except RecursionError:
        pass


def _written(ask: Ask, manner: Any, size: int) -> None:
    if ask.n != 1:
        return
    try:
        body = write(ask, "m", manner)
    except CortexError as error:
        refused(error)
        return
    assert len(body) < 8 * size + 2000
    if manner is CORTEX and ask.messages:
        try:
            again = CHAT.read(body)
        except CortexError as error:
            raise AssertionError(f"a neuron refuses what a gateway wrote: {error.message}") from error
        # Pictures of a result stand in a turn of their own there: texts are compared as a whole.
        assert "".join(turn.text for turn in again.messages) == "".join(turn.text for turn in ask.messages)


def ordered(tape: Tape) -> None:
    """Orders of the control routes, of /tokenize and its kin."""
    kind, bodies = tape.of(ORDERS)
    body = mutated(tape, bodies)
    try:
        reading.decode(body, msgspec.json.Decoder(kind))
    except CortexError as error:
        refused(error, body)


ORDERS: Final[tuple[tuple[type, list[Any]], ...]] = (
    (neuron.Tokenize, [{"model": "m", "prompt": "x"}, {"model": "m", "messages": [{"role": "user"}]}]),
    (neuron.Detokenize, [{"model": "m", "tokens": [1, 2, 3]}]),
    (neuron.LoadRequest, [{"spec": {"id": "m", "aliases": ["a"]}, "evict": "never", "victims": ["n"]}]),
    (neuron.UnloadRequest, [{"id": "m", "force": True}]),
    (keeping.PinRequest, [{"id": "m"}]),
    (keeping.KeepRequest, [{"id": "m", "keep": {"priority": 3}}]),
)


def rendered(tape: Tape) -> None:
    """A chat template is given what a caller likes to say."""
    template = _template(tape.of(sorted(_TEMPLATES.glob("*.jinja"))).name)
    messages = [_message(tape) for _ in tape.some(4)]
    tools = [_tool(tape) for _ in tape.some(2)] if tape.below(2) else []
    try:
        prompt = template.render(messages, tools, {"enable_thinking": True} if tape.below(2) else {})
    except (BadAsk, Unfit) as error:
        assert error.status < 500
        told(error)
        return
    # All of it, in the largest form that a template gives it: escaped as JSON, and twice.
    size = sum(len(turn.text) + len(turn.thought) for turn in messages)
    assert len(prompt) <= 60_000 + 24 * (size + len(str(tools)))


@cache
def _template(name: str) -> ChatTemplate:
    return ChatTemplate((_TEMPLATES / name).read_text(), bos="<s>", eos="</s>")


def _message(tape: Tape) -> Message:
    role = tape.of(("user", "assistant", "system", "tool"))
    if role != "assistant":
        return Message(role, _said(tape), tool_call_id=_said(tape) if role == "tool" else None)
    uses = tuple(ToolUse(_said(tape), _said(tape), _said(tape)) for _ in range(tape.below(3)))
    return Message("assistant", _said(tape), _said(tape), uses)


def _tool(tape: Tape) -> Tool:
    values: list[Any] = [
        "string",
        None,
        1,
        ["string", "null"],
        {"type": "object"},
        {"$ref": "#"},
        _said(tape),
    ]
    return Tool(
        tape.of(("weather", "now")),
        _said(tape),
        {"type": tape.of(values), "properties": {tape.of(("a", "city")): tape.of(values)}},
    )


def _said(tape: Tape) -> str:
    return "".join(tape.of(_SAYINGS) for _ in range(tape.below(4)))


_SAYINGS: Final = (
    "x",
    "",
    " ",
    "\n",
    "{{ bos_token }}",
    "{% raw %}",
    "{{ ''.__class__ }}",
    "<|im_end|>",
    "</think>",
    "<think>",
    "[TOOL_CALLS]",
    "<tool_call>",
    "</s>",
    "\ue000",
    "\u2028",
    "\ud800",
    "😀",
    "%s %(a)s {0}",
    '{"a": 1}',
    "{",
    "[1]",
    "\x00",
    "x" * 2000,
)


# -- what engines send


CHUNKS: Final[list[Any]] = [
    {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
    },
    {"choices": [{"index": 0, "delta": {"content": "It is"}, "logprobs": None}]},
    {"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see"}}]},
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "a"},
                "logprobs": {
                    "content": [
                        {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -9}]}
                    ]
                },
            }
        ]
    },
    {
        "choices": [
            {
                "index": 0,
                "delta": {
                    "tool_calls": [{"index": 0, "id": "c", "function": {"name": "now", "arguments": '{"a":'}}]
                },
            }
        ]
    },
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    },
    {"choices": [{"index": 0, "text": "plain", "logprobs": {"tokens": ["a"], "token_logprobs": [-1]}}]},
    {"error": {"message": "gone wrong", "type": "server_error", "code": 500, "param": None}},
    {"object": "error", "message": "gone", "code": "bad"},
]
_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\n: ping\n\n", b"\nevent: x\n\n", b"", b"\n\n\n\n")


def streamed(tape: Tape) -> None:
    """An engine's stream is heard however it is cut, ends once, and is told in every dialect."""
    data = b""
    for _ in tape.some(8):
        chunk = mutated(tape, CHUNKS) if tape.below(4) == 3 else json.dumps(tape.of(CHUNKS)).encode()
        data += (
            tape.of((b"data: ", b"data:", b"data: ", b"", b"\xef\xbb\xbfdata: ")) + chunk + tape.of(_LINES)
        )
    if tape.below(2):
        data += b"data: [DONE]\n\n"
    hearing = Hearing(logprobs=tape.of((None, 0, 2)), parallel=bool(tape.below(2)), new_id=_ids())
    events = list(_heard(hear(hearing), tape.cut(data, 6)))
    ends = [event for event in events if isinstance(event, Stopped | Failed)]
    assert ends == events[-1:], "an answer ends once, and nothing follows"
    if isinstance(ends[0], Failed):
        told(ends[0].error)
    assert sum(_size(event) for event in events) <= len(data) + 64
    called = any(isinstance(event, ToolCall) for event in events)
    for dialect in (CHAT, RESPONSES, MESSAGES, *([] if called else [TEXT])):
        _spoken(dialect, events)


def _heard(machine: Any, pieces: list[bytes]) -> Iterator[Event]:
    """What comes of it, as an exchange with an engine does it."""
    yield from next(machine)
    sse_reader = EventReader()
    try:
        for piece in pieces:
            for event in sse_reader.feed(piece):
                said = machine.send(event)
                yield from said
                if said and isinstance(said[-1], Stopped | Failed):
                    return
        yield from machine.send(None)
    except UpstreamFailed as error:
        yield Failed(error)


def _spoken(dialect: Dialect, events: list[Event]) -> None:
    """The answer in `dialect`, streamed and whole: what is there is JSON."""
    reply = Reply("id_1", "m", 1, include_usage=True, logprobs=2, ask=Ask("m", tools=TOOLS))
    machine = dialect.speak(reply)
    frames = list(next(machine))
    try:
        for event in events:
            frames += machine.send(event)
    except StopIteration:
        pass
    except CortexError as error:
        told(error)
    seen = Trail()
    for frame in frames:
        assert frame.data == b"[DONE]" or isinstance(json.loads(frame.data), dict)
        seen.feed(sse.render(frame))
    try:
        assert isinstance(json.loads(dialect.whole(reply, events)), dict)
    except CortexError as error:
        told(error)


def _size(event: Event) -> int:
    match event:
        case Text(text) | Thought(text):
            return len(text)
        case ToolCall():
            return len(event.arguments) + len(event.name)
    return 0


def _ids() -> Callable[[], str]:
    ids = count()
    return lambda: f"{next(ids):024d}-more"


REFUSALS: Final[list[Any]] = [
    {
        "error": {
            "message": "This model's maximum context length is 8 tokens. However, you requested 9",
            "code": 400,
        }
    },
    {
        "error": {
            "message": "m",
            "type": "invalid_request_error",
            "param": "top_k",
            "code": "x",
            "retry_after": 3,
        }
    },
    {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
    {"detail": [{"loc": ["body", "x"], "msg": "Field required"}]},
    {"detail": "Not found"},
    {"error": {"message": "m", "n_prompt_tokens": 9, "n_ctx": 8, "type": "exceed_context_size_error"}},
    {"type": "error", "error": {"type": "t", "message": "m", "details": {"error_code": "overloaded"}}},
    {"error": {"message": "m", "code": "does_not_fit", "free_by_device": {"cuda:0": 3}, "needed_bytes": 4}},
    {"error": "m"},
]


def rejected(tape: Tape) -> None:
    """What an engine or a neuron refuses with, in a status or within a stream."""
    body = mutated(tape, REFUSALS)
    status = tape.of((400, 401, 404, 413, 422, 429, 500, 502, 503, 529))
    headers = {
        "retry-after": tape.of(("3", "-1", "x", "9" * 30, "1e400", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"))
    }
    error = openai_errors.refused(status, headers, body)
    told(error)
    if (inner := refusals.in_stream(body)) is not None:
        told(inner)
    if (said := refusals.read(body)) is not None:
        told(refusals.error_of(said, said.code or "", status, retry_after="3", should_retry="false"))


REPORTS: Final[tuple[tuple[type, list[Any]], ...]] = (
    (
        neuron.Health,
        [
            {
                "status": "ok",
                "name": "n",
                "boot_id": "b",
                "devices": [{"name": "cuda:0", "memory_total": 5, "utilization": 0.5, "poisoned": False}],
                "activation": {"state": "ready", "failed": {"a": "why"}},
                "models": [{"id": "m", "in_flight": 1, "rejected": {"queue": 2}}],
                "key_tokens": {"day": "2026-11-21", "book": "b", "keys": {"k": {"prompt": 5}}},
            }
        ],
    ),
    (
        neuron.Discovery,
        [{"name": "n", "devices": [{"index": 0}], "dialects": ["openai_chat"], "last_crash": {"at": 1}}],
    ),
    (
        neuron.Residents,
        [{"models": [{"id": "m", "devices": ["cpu"], "servable": {"ok": False, "reason": "x"}}]}],
    ),
    (neuron.LoadAnswer, [{"id": "m", "devices": {"cpu": 5}}]),
    (FleetReport, [{"status": "ok", "neurons": [{"name": "n", "models": [{"id": "m"}]}], "loads": []}]),
    (keeping.LoadJob, [{"id": "j", "model": "m", "error": {"code": "c", "status": 5}}]),
)


def reported(tape: Tape) -> None:
    """What one cortex tells another: understood, or known to be nonsense."""
    kind, bodies = tape.of(REPORTS)
    try:
        assert isinstance(reading.of_peer(mutated(tape, bodies), kind), kind)
    except ValueError as error:
        assert len(str(error)) <= 300
    usage = neuron.parse_usage(tape.rest(30).decode("latin-1").replace("\x01", "prompt=1,completion=2,"))
    assert usage is None or min(usage.prompt, usage.cached, usage.completion) >= 0


# -- what models write

_WRITTEN: Final = (
    *(word for kind in KINDS for word in kind),
    "<tool_call>",
    "</tool_call>",
    "<function=weather>",
    "</function>",
    "<parameter=city>",
    "</parameter>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    '{"name": "weather", "arguments": {"city": "Bern"}}',
    '{"name": "now", "parameters": {}}',
    '[{"name": "now", "arguments": {}}]',
    "weather",
    "now[ARGS]{}",
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ":",
    ",",
    ";",
    "<",
    "</",
    "name",
    "\n",
    " ",
    "x",
    "é😀",
    "END",
    "EN",
    "\\ud800",
    "1e999",
    "-",
    "null",
)
_FORMS: Final = ("hermes", "qwen_xml", "llama", "mistral_list", "mistral_args")


def written(tape: Tape) -> None:
    """A model's answer becomes text, thoughts and calls: the same however its bytes are cut."""
    data = "".join(tape.of(_WRITTEN) for _ in tape.some(16)).encode()
    if tape.below(4) == 3:
        at = tape.below(len(data) + 1)
        data = data[:at] + tape.rest(3) + data[at:]
    form, kind = tape.of((None, *_FORMS)), tape.of((None, *KINDS))
    inside, parallel = bool(tape.below(2)), bool(tape.below(2))
    stops = tape.of(((), ("END",), ("EN", "x", "\n\n"), ("<tool", "é")))

    def projection() -> Projection:
        return Projection(
            choice=0,
            thinking=Thinking(inside=inside, kind=kind) if kind else None,
            calls=reader(form, TOOLS, _ids()) if form else None,
            stops=stops,
            parallel=parallel,
        )

    end = tape.of((Stopped("stop"), Stopped("length"), Failed(UpstreamFailed("gone"))))
    cut = _projected(projection(), tape.cut(data, 9), end)
    assert cut == _projected(projection(), [data], end)
    assert cut == _projected(projection(), [data[at : at + 1] for at in range(len(data))], end)
    # One byte that is no text becomes a character of three.
    assert sum(len(text) for _, text in cut) <= 3 * len(data) + 40 * len(cut)


def _projected(projection: Projection, pieces: list[bytes], end: Event) -> list[tuple[str, str]]:
    """Neighbours of a kind are one; calls by what they say."""
    said: list[tuple[str, str]] = []
    events: list[Event] = []
    for piece in pieces:
        scores = (TokenLogprob(piece.decode("utf-8", "replace"), -1.0),)
        events += projection.feed(Tokens(piece, 1, scores))
    events += projection.feed(end)
    assert projection.finished
    for event in events:
        kind = type(event).__name__
        match event:
            case Text(text) | Thought(text):
                assert text
                if said and said[-1][0] == kind:
                    said[-1] = (kind, said[-1][1] + text)
                else:
                    said.append((kind, text))
            case ToolCall():
                assert isinstance(json.loads(event.arguments), dict)
                said.append((event.name, event.arguments))
            case Stopped():
                said.append((event.reason, event.stop or ""))
            case Failed():
                told(event.error)
    return said


TARGETS: Final[dict[str, Target]] = {
    **{dialect.name: asked(dialect, dialect.path) for dialect in DIALECTS},
    "orders": ordered,
    "templates": rendered,
    "streams": streamed,
    "refusals": rejected,
    "reports": reported,
    "answers": written,
}
