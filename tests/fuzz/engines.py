"""What engines and neurons send: streams, refusals, reports.

It is understood, or told as an error of theirs.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from cortex.ask import Ask
from cortex.errors import CortexError, UpstreamFailed
from cortex.events import Event, Failed, Stopped, Text, Thought, ToolCall
from cortex.translator import openai_errors
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.translator.openai_hear import Hearing, hear
from cortex.wire import keeping, neuron, reading, refusals, sse
from cortex.wire.fleet import FleetReport
from cortex.wire.openai import Reply
from cortex.wire.responses_trail import Trail
from cortex.wire.sse_reading import EventReader
from tests.call_forms import TOOLS
from tests.fuzz.bodies import mutated
from tests.fuzz.promises import told
from tests.fuzz.tape import Tape
from tests.play import speaking

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
    hearing = Hearing(logprobs=tape.of((None, 0, 2)), parallel=bool(tape.below(2)), new_id=lambda: "call_0")
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
    machine = speaking(dialect, reply)
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
