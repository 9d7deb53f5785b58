"""Whatever reads a stream says the same wherever the network cuts it: every reader, at every byte.

A reader that is not in the table is held by a test of its own, as `HELD` tells: those of a model's text
in the tests of `text`, the relay and the retelling over real sockets. A new one belongs to either.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cortex.events import Stopped
from cortex.harness.hosts.frames import Frames, framed
from cortex.harness.hosts.lines import Lines
from cortex.translator import openai_hear
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.web.meter import Meter
from cortex.web.tail import EventTail
from cortex.wire import sse
from cortex.wire.openai import Reply
from cortex.wire.responses_trail import Trail
from cortex.wire.sse_reading import EventReader
from tests.losses import merged
from tests.play import SCRIPT, play, speaking, splits

ROOT: Final = Path(__file__).parent.parent
GOLDEN: Final = Path(__file__).parent / "golden"
Pieces = Iterable[bytes]
HELD: Final = {
    "cortex/text/detokenise.py": "tests/test_text_detokenise.py",
    "cortex/text/projection.py": "tests/test_text_projection.py",
    "cortex/text/stops.py": "tests/test_text_stops.py",
    "cortex/text/thinking.py": "tests/test_text_thinking.py",
    "cortex/text/toolcalls/objects.py": "tests/test_text_call_forms.py",
    "cortex/text/toolcalls/scanning.py": "tests/test_text_call_forms.py",
    "cortex/web/answer.py": "tests/web/test_pool.py",
    "cortex/web/relay.py": "tests/web/test_relay.py",
    "cortex/translator/retold.py": "tests/test_translator_retold.py",
    "cortex/web/retell.py": "tests/web/test_retell.py",
    "cortex/web/head.py": "tests/web/test_head.py",
    "cortex/web/body.py": "tests/web/test_connection.py",
}


def _spoken(dialect: Dialect) -> bytes:
    reply = Reply("id_1", "m", 1, include_usage=True)
    return b": keep-alive\n\n" + sse.render(*play(speaking(dialect, reply), SCRIPT))


def _events(pieces: Pieces) -> Any:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)], reader.inside


def _heard(pieces: Pieces) -> Any:
    reader, machine = EventReader(), openai_hear.hear(openai_hear.Hearing(prompt_bytes=9))
    said = list(next(machine))
    for piece in pieces:
        for event in reader.feed(piece):
            if not isinstance(said[-1], Stopped):
                said += machine.send(event)
    assert len(said) == 1 or isinstance(said[-1], Stopped)
    return merged(said)


def _trailed(pieces: Pieces) -> Any:
    trail = Trail()
    for piece in pieces:
        trail.feed(piece)
    return trail.response, trail.next


def _tailed(dialect: Dialect) -> Callable[[Pieces], Any]:
    """What passes, and its figures, as the relay has them."""

    def passed(pieces: Pieces) -> Any:
        tail, meter, whole = EventTail(dialect.wire), Meter(dialect.wire), b""
        for piece in pieces:
            at = 0
            while at < len(piece):
                at += tail.feed(piece[at:])
                whole += tail.whole
                meter.passed(tail.whole, 1.0)
        return whole, tail.last, tail.ended, tail.failed, tail.fault, meter.events, meter.first_content_at

    return passed


def _framed(pieces: Pieces) -> Any:
    frames = Frames()
    return [message for piece in pieces for message in frames.feed(piece)]


def _lined(pieces: Pieces) -> Any:
    lines = Lines("m")
    for piece in pieces:
        lines.feed(piece)
    before = lines.last
    lines.end()
    return before, lines.last


_CHAT: Final = (GOLDEN / "openai" / "chat-stream.sse").read_bytes()
READERS: Final[dict[str, tuple[bytes, Callable[[Pieces], Any]]]] = {
    "events": (_CHAT.replace(b"\n\n", b"\r\n\r\n"), _events),
    "events of carriage returns": (_CHAT.replace(b"\n\n", b"\r\r"), _events),
    "chat heard": (_CHAT, _heard),
    "chat heard with thoughts and calls": (_spoken(CHAT), _heard),
    "text heard": ((GOLDEN / "openai" / "text-stream.sse").read_bytes(), _heard),
    "trail of Responses": (_spoken(RESPONSES)[:1500], _trailed),
    "chat passed": (_spoken(CHAT), _tailed(CHAT)),
    "text passed": ((GOLDEN / "openai" / "text-stream.sse").read_bytes(), _tailed(TEXT)),
    "messages passed": (_spoken(MESSAGES), _tailed(MESSAGES)),
    "responses passed": (_spoken(RESPONSES), _tailed(RESPONSES)),
    "words of a child": ("<6>one\n\ntwo é😀\n<3>three".encode(), _lined),
    "messages of a child": (b"".join(framed(bytes(size)) for size in (0, 1, 40)), _framed),
}


@pytest.mark.parametrize("name", READERS)
def test_a_stream_says_the_same_wherever_it_is_cut(name: str) -> None:
    stream, read = READERS[name]
    whole = read([stream])
    assert whole != read([])
    for pieces in splits(stream):
        assert read(pieces) == whole, [len(piece) for piece in pieces[:2]]


def _with_feed() -> Iterator[str]:
    """Where something takes a stream piece by piece."""
    for path in sorted((ROOT / "cortex").rglob("*.py")):
        if re.search(r"^    def feed\(self, \w+: (bytes|str)\b", path.read_text(), re.MULTILINE):
            yield path.relative_to(ROOT).as_posix()


def test_every_reader_is_in_the_table_or_held_elsewhere() -> None:
    tabled = {EventReader, Trail, EventTail, Frames, Lines}
    known = {each.__module__.replace(".", "/") + ".py" for each in tabled} | HELD.keys()
    assert len(set(_with_feed())) > 8
    assert set(_with_feed()) <= known
    assert all((ROOT / reader).exists() and (ROOT / test).exists() for reader, test in HELD.items())
