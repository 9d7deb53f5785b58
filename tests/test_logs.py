"""Lines that nobody can forge, written by a thread that nobody waits for."""

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from cortex import logs
from cortex.logs.lines import MOST_PHRASES

log = logging.getLogger("cortex.tested")

LEVELS = ("debug", "info", "warning", "error", "exception")
CALL = re.compile(r"[a-z_]+(?:\.[a-z_%]+)+(?: [a-z_]+=(?:'[^'=]+'|[^\s'=]+))*")


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before once the test is over."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for each in [each for each in root.handlers if isinstance(each, logs.Outlet)]:
        each.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("httpx", "httpcore", "hypercorn"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("cortex.tested", logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(more)
    return made


def written(form: logs.Format, say: object) -> str:
    stream = io.StringIO()
    outlet = logs.configure("debug", form, stream)
    say()  # type: ignore[operator]
    outlet.close()
    return stream.getvalue()


@pytest.mark.parametrize("formatter", [logs.Text(journal=False), logs.Text(journal=True), logs.Json()])
@given(text=st.text(), request=st.text())
@example(text="\ud800\x7f\x9b\u202e", request="\x1b]0;\x07")
def test_whatever_a_caller_sends_stays_within_one_printable_line(
    formatter: logging.Formatter, text: str, request: str
) -> None:
    """faults.md row 59."""
    line = formatter.format(record("ask.refused model=%s", text, request_id=request))
    assert line.isprintable()


def test_line_ends_and_escapes_show_as_what_they_are() -> None:
    """faults.md row 59."""
    assert logs.escape("a\r\nb\x1b[31mc\x9bd\u2028e") == r"a\r\nb\x1b[31mc\x9bd\u2028e"
    assert logs.escape("Καλημέρα 🙂") == "Καλημέρα 🙂"


def test_a_traceback_is_part_of_its_records_line() -> None:
    def fail() -> None:
        try:
            raise ValueError("first\nforged line")
        except ValueError:
            log.exception("ask.failed")

    text = written("text", fail)
    assert text.count("\n") == 1
    assert r"ValueError: first\nforged line" in text
    loaded = json.loads(written("json", fail))
    assert loaded["traceback"].endswith("ValueError: first\nforged line")


def test_a_json_line_holds_time_level_logger_message_and_request() -> None:
    def say() -> None:
        with logs.bind_request("r-1"):
            log.warning("neuron.lost name=%s", "a")

    loaded = json.loads(written("json", say))
    assert loaded.pop("time").endswith("Z")
    assert loaded == {
        "level": "warning",
        "logger": "cortex.tested",
        "event": "neuron.lost",
        "name": "a",
        "message": "neuron.lost name=a",
        "request_id": "r-1",
    }


@pytest.mark.parametrize(
    ("message", "arguments", "told"),
    [
        ("load.done model=%s seconds=%.2f", ("m x", 1.256), {"model": "m x", "seconds": 1.26}),
        ("request.done n=%d ok=%s none=%s dash=%s", (3, True, None, "-"), {"n": 3, "ok": True, "none": None}),
        ("gateway.up api=%s:%d page=%s:%d", ("h", 1, "i", 2), {"api": "h:1", "page": "i:2"}),
        ("model.%s model=%s", ("pinned", "m"), {"event": "model.pinned", "model": "m"}),
        ("reload.refused fault=%s", ("x = 3 = level=1",), {"fault": "x = 3 = level=1"}),
        ("stop.forced cause='it did not end' in_s=%d", (3,), {"cause": "it did not end", "in_s": 3}),
        ("request.done key=%s", ('a b="c',), {"key": 'a b="c'}),
        ("request.done rules=%s", (("x", 1),), {"rules": "('x', 1)"}),
        ("request.done level=%s message=%s a=%s", ("forged", "forged", 1), {"a": 1}),
    ],
)
def test_a_json_line_has_the_keys_of_its_message_with_their_values(
    message: str, arguments: tuple[object, ...], told: dict[str, object]
) -> None:
    """Nothing that an argument holds makes a key."""
    loaded = json.loads(logs.Json().format(record(message, *arguments)))
    assert logs.Text(journal=True).format(record(message, *arguments)).endswith(f" {loaded.pop('message')}")
    assert (loaded.pop("level"), loaded.pop("logger")) == ("info", "cortex.tested")
    del loaded["time"]
    if "dash" in message:
        assert loaded.pop("dash") is None
    assert loaded == {"event": message.partition(" ")[0], **told}


@pytest.mark.parametrize("message", ["a sentence with a=b in it", "", "Event.x a=1", "event a=%%"])
def test_what_has_no_event_is_its_message_alone(message: str) -> None:
    assert set(json.loads(logs.Json().format(record(message)))) == {
        "time",
        "level",
        "logger",
        "message",
    }


def test_no_request_is_no_field_of_a_json_line() -> None:
    assert "request_id" not in json.loads(logs.Json().format(record("load.done model=%s", "m")))


# A reader of logfmt takes a key, and a value that has no space, quote or equals sign unless it is quoted.
LOGFMT = re.compile(r"""(?:^| )([\w.]+)(?:=([^\s"=]+|"(?:[^"\\]|\\.)*"))?(?= |$)""")


def read_logfmt(line: str) -> dict[str, str | None]:
    """The keys of `line` with their values; fails where a part of it is neither."""
    found = list(LOGFMT.finditer(line))
    assert "".join(each[0] for each in found) == line, line
    return {each[1]: json.loads(each[2]) if each[2] and each[2][0] == '"' else each[2] for each in found}


@given(value=st.text())
@example(value='a b="c" d=e')
@example(value="")
@example(value="\ud800\x7f\x9b\u2028")
def test_a_text_line_is_read_by_logfmt_whatever_a_value_holds(value: str) -> None:
    line = logs.Text(journal=False).format(record("load.done model=%s s=%.2f by=%s:%d", value, 1.5, value, 3))
    _, level, name, rest = line.split(maxsplit=3)
    assert (level, name) == ("INFO", "cortex.tested")
    assert read_logfmt(rest) == {"load.done": None, "model": value, "s": "1.50", "by": f"{value}:3"}


def test_a_traceback_and_a_request_in_a_text_line_are_values_of_logfmt() -> None:
    try:
        raise ValueError("two words")
    except ValueError:
        line = logs.Text(journal=True).format(
            record("ask.failed n=%s", None, exc_info=sys.exc_info(), request_id="a b")
        )
    told = read_logfmt(line.partition("cortex.tested ")[2])
    assert told["n"] == "-" and told["request"] == "a b"
    assert told["traceback"] is not None and told["traceback"].endswith("\nValueError: two words")


def test_every_call_of_cortex_says_an_event_and_keys() -> None:
    """What is said in prose beside the keys is no value that anything could look for."""
    odd = []
    for path in sorted(Path("cortex").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("log"), "log"), [_, said, *_]):
                    pass
                case ast.Call(ast.Attribute(ast.Name("log"), name), [said, *_]) if name in LEVELS:
                    pass
                case _:
                    continue
            if not (isinstance(said, ast.Constant) and CALL.fullmatch(str(said.value))):
                odd.append(f"{path}:{node.lineno}")
    assert not odd


def test_in_the_journal_a_json_line_has_its_level_as_a_mark_and_no_time() -> None:
    line = logs.Json(journal=True).format(record("load.done model=m"))
    assert line.startswith("<6>{")
    assert "time" not in json.loads(line.removeprefix("<6>"))


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "as_json"),
    [
        (None, io.StringIO, True),
        (None, Screen, False),
        ("text", io.StringIO, False),
        ("json", Screen, True),
    ],
)
def test_a_terminal_gets_text_and_whatever_else_reads_gets_json_unless_it_is_said(
    form: logs.Format | None, stream: type[io.StringIO], as_json: bool
) -> None:
    sink = stream()
    outlet = logs.configure("info", form, sink)
    log.info("load.done model=%s", "m")
    outlet.close()
    assert sink.getvalue().startswith("{") is as_json


def test_a_text_line_holds_the_time_in_utc_and_the_request_if_there_is_one() -> None:
    shown = logs.Text(journal=False).format(record("load.done model=m", created=0.25, msecs=250.0))
    assert shown == "1970-01-01T00:00:00.250Z INFO    cortex.tested load.done model=m"
    with logs.bind_request("r-2"):
        assert logs.Text(journal=False).format(record("x")).endswith(" x request=r-2")


async def test_a_request_id_belongs_to_its_task_and_the_tasks_it_starts() -> None:
    seen: dict[str, str] = {}

    async def note(name: str) -> None:
        await trio.lowlevel.checkpoint()
        seen[name] = logs.request_id()

    async def serve(name: str) -> None:
        with logs.bind_request(name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note, name)
        assert logs.request_id() == "-"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "a")
        nursery.start_soon(serve, "b")
    assert seen == {"a": "a", "b": "b"}


def test_a_device_thread_names_its_jobs_request_itself() -> None:
    with logs.bind_request("of-the-thread"):
        line = logs.Json().format(record("job.failed", request_id="of-the-job"))
    assert json.loads(line)["request_id"] == "of-the-job"


def test_the_journal_gets_the_level_as_a_mark_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = os.pipe()
    with os.fdopen(near), os.fdopen(far, "w") as stream:
        found = os.fstat(far)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        outlet = logs.configure("info", "text", stream)
        log.error("device.poisoned name=cuda:0")
        outlet.close()
        assert os.read(near, 1000) == b"<3>ERROR   cortex.tested device.poisoned name=cuda:0\n"


def test_a_stream_that_is_not_the_journals_keeps_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = os.pipe()
    with os.fdopen(near), os.fdopen(far, "w") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        outlet = logs.configure("info", "text", stream)
        log.error("x")
        outlet.close()
        assert os.read(near, 1000).startswith(b"20")


def test_a_log_that_nobody_reads_costs_records_and_never_time() -> None:
    """faults.md row 92."""
    near, far = os.pipe()
    with os.fdopen(near, "rb") as reader, os.fdopen(far, "w") as stream:
        outlet = logs.configure("info", "text", stream)
        began = time.monotonic()
        for _ in range(logs.BOUND + 3000):
            log.info("x" * 100)
        took_s = time.monotonic() - began
        lost = outlet.dropped
        # The pipe holds some hundred lines, the queue its bound; the rest is lost and counted.
        assert 1000 < lost < 3000
        assert logs.dropped() == lost
        assert took_s < 30
        kept, told = 0, 0
        # Where among the lines the count comes depends on when the writer first met the full pipe.
        while told < lost or kept <= 100:
            line = reader.readline()
            told += int(line.rpartition(b"=")[2]) if b"logs.dropped count=" in line else 0
            kept += b"xxx" in line
        assert told == lost == outlet.dropped


def test_a_process_whose_log_is_stuck_still_ends() -> None:
    """faults.md row 92: the writing thread holds no lock that the interpreter wants at exit."""
    script = (
        "import logging, sys; from cortex import logs; logs.configure('info', 'text', sys.stderr)\n"
        "for _ in range(3000): logging.getLogger('x').info('y' * 100)\n"
        "print('through')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.wait(20) == 0
            assert child.stdout is not None
            assert child.stdout.read() == "through\n"
        finally:
            child.kill()


def test_a_reader_that_went_away_is_counted_and_nothing_else() -> None:
    """faults.md row 92."""
    near, far = os.pipe()
    os.close(near)
    with os.fdopen(far, "w") as stream:
        outlet = logs.configure("info", "text", stream)
        log.info("lost")
        log.info("lost too")
        outlet.close()
        assert outlet.dropped == 2


def test_closing_writes_what_is_queued() -> None:
    assert written("text", lambda: [log.info("n=%d", n) for n in range(500)]).count("\n") == 500


def test_a_second_outlet_takes_the_place_of_the_first(root: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "text", first)
    log.info("to the first")
    outlet = logs.configure("info", "text", second)
    log.info("to the second")
    outlet.close()
    assert "to the first" in first.getvalue()
    assert "to the second" in second.getvalue()
    assert "to the second" not in first.getvalue()
    assert sum(isinstance(each, logs.Outlet) for each in root.handlers) == 1


def test_a_record_whose_arguments_do_not_fit_is_said_and_not_raised() -> None:
    stream = io.StringIO()
    outlet = logs.configure("info", "text", stream)
    outlet.handle(record("n=%d", "no number"))
    outlet.close()
    assert stream.getvalue().startswith('INFO logs.unreadable logger=cortex.tested cause="TypeError(')


def test_libraries_that_log_each_request_are_quiet_at_info() -> None:
    text = written("text", lambda: logging.getLogger("httpx").info("HTTP Request: GET"))
    assert text == ""


def test_records_below_the_level_are_not_made() -> None:
    stream = io.StringIO()
    outlet = logs.configure("warning", "text", stream)
    log.info("quiet")
    log.warning("loud")
    outlet.close()
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


SAID = "load.done model=%s seconds=%.2f bytes=%d ok=%s by=%s:%d"
GIVEN = ("m x", logs.OPEN, 7, logs.OPEN, "h", 2)
LOGGED = (SAID, "m x", 1.256, 7, "-", "h", 2)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("others", [[], [logging.NullHandler()]])
def test_what_is_said_without_a_record_is_the_line_of_one(
    form: logs.Format, others: list[logging.Handler], root: logging.Logger
) -> None:
    """Whoever listens beside the outlet has records made."""
    root.handlers[:] = others

    def both() -> None:
        logs.say(log, "r-1", SAID, GIVEN, (1.256, "-"))
        with logs.bind_request("r-1"):
            log.info(*LOGGED)

    said, logged = (re.sub(r"\d{4}-\S+Z", "", line) for line in written(form, both).splitlines())
    assert said == logged and "r-1" in said


FORMS = {
    "text": logs.Text(journal=False),
    "journal": logs.Text(journal=True, more={"worker": "2 %s"}),
    "json": logs.Json(more={"worker": '"%s'}),
    "json-journal": logs.Json(journal=True),
}
FIGURES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(["-", -0.0, 10**20, -(10**5000), 10**400, 1e16, 1e-7, "%s", "\0", 0.0005]),
)


def line_of(tell: Callable[[], str]) -> str:
    """The line without its time; of what cannot be told, why."""
    try:
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "", tell(), count=1)
    except (TypeError, ValueError, OverflowError) as error:
        return repr(error)


@pytest.mark.parametrize("form", FORMS)
@given(
    names=st.tuples(st.text(), st.one_of(st.text(), st.integers())),
    figures=st.tuples(FIGURES, FIGURES, FIGURES),
    request=st.one_of(st.text(), st.uuids().map(str), st.just("-")),
)
@example(names=("-", "a"), figures=(-0.0, 10**20, -0.0), request="a-1f")
@example(names=("-", "a"), figures=(100.0, 1, 2.5), request="a-1f")
@example(names=("-", "a"), figures=(float("nan"), 1, 2.5), request="a-1f")
@example(names=("-", "a"), figures=(1.0, 1, float("-inf")), request="a-1f")
@example(names=("-", "a"), figures=(True, False, True), request="a-1f")
@example(names=("-", "a"), figures=(1234567890123456.789, 1, 1e16), request="a-1f")
@example(names=("%s %(a)d\0", '"\u2028'), figures=(float("nan"), True, "-"), request='"\0%s\x7f')
@example(names=("a", "b"), figures=(float("-inf"), 10**5000, float("inf")), request="Ω")
def test_a_line_put_together_before_is_byte_for_byte_that_of_a_record(
    form: str, names: tuple[str, str | int], figures: tuple[float | str, ...], request: str
) -> None:
    """Whatever is in it, the first time and the next."""
    text, lines = "request.done model=%s seconds=%.3f by=%s n=%d wait=%s level=x", FORMS[form]
    one, two, three = figures
    given = (names[0], logs.OPEN, names[1], logs.OPEN, logs.OPEN)
    logged = record(text, names[0], one, names[1], two, three, request_id=request)
    for _ in range(2):
        said = line_of(lambda: lines.say("cortex.tested", request, text, given, figures))
        assert said == line_of(lambda: lines.format(logged))


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("load.%s n=%d", (logs.OPEN, 3)),
        ("load.done at=%s:%d", ("h", logs.OPEN)),
        ("load.done at='%s'", (logs.OPEN,)),
        ("load.done n=%5d", (logs.OPEN,)),
        ("load.done level=%s", (logs.OPEN,)),
        ("A sentence with %s in it", (logs.OPEN,)),
        ("load.done n=%s", (logs.OPEN, 3)),
    ],
)
def test_a_figure_that_is_not_all_of_a_keys_value_is_told_all_the_same(
    text: str, given: tuple[logs.Given, ...]
) -> None:
    arguments = tuple(7 if each is logs.OPEN else each for each in given)
    for lines in FORMS.values():
        logged = record(text, *arguments, request_id="r-1")
        for _ in range(2):
            said = line_of(lambda: lines.say("cortex.tested", "r-1", text, given, (7,)))  # noqa: B023
            assert said == line_of(lambda: lines.format(logged))  # noqa: B023


def test_names_that_come_and_go_do_not_stay() -> None:
    lines = logs.Json(journal=True)
    for number in range(3 * MOST_PHRASES):
        line = lines.say("cortex.x", "r-1", "load.done model=%s n=%d", (f"m{number}", logs.OPEN), (number,))
        assert f'"model": "m{number}", "n": {number},' in line
    assert len(lines._phrases) <= MOST_PHRASES
    kept = {given[0] for _, _, given in lines._phrases}
    assert "m0" not in kept and f"m{2 * MOST_PHRASES}" in kept


def test_of_too_many_kinds_of_lines_those_that_are_known_stay_so() -> None:
    """To put each together anew for one line costs more than the line."""
    lines = logs.Json(journal=True)
    for number in range(MOST_PHRASES + 10):
        lines.say("cortex.x", "r-1", "load.done model=%s n=%d", (f"m{number}", logs.OPEN), (number,))
    kept = {given[0] for _, _, given in lines._phrases}
    assert kept == {f"m{number}" for number in range(MOST_PHRASES)}


def test_what_was_put_together_for_one_form_is_not_said_in_another(root: logging.Logger) -> None:
    root.handlers[:] = []
    streams = io.StringIO(), io.StringIO(), io.StringIO()
    for stream, form, more in zip(streams, ("json", "text", "json"), ({}, {}, {"worker": "1"}), strict=True):
        outlet = logs.configure("info", form, stream, more)  # type: ignore[arg-type]
        logs.say(log, "r-1", SAID, GIVEN, (1.0, 2))
        outlet.close()
    first, second, third = (stream.getvalue() for stream in streams)
    assert json.loads(first)["ok"] == 2 and second.endswith("by=h:2 request=r-1\n")
    assert json.loads(third)["worker"] == "1"


class Stuck(io.StringIO):
    """A stream whose reader takes nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.writes = list[str]()

    def write(self, text: str) -> int:
        self.writes.append(text)
        self.begun.set()
        return self.goes_on.wait(30)


def test_lines_gather_while_others_are_written_and_keep_their_order(root: logging.Logger) -> None:
    """The thread is to take the interpreter from whoever logs once for many of them."""
    root.handlers[:] = []
    stream = Stuck()
    outlet = logs.configure("info", "text", stream)
    log.info("thing.begun")
    assert stream.begun.wait(30)
    for number in range(50):
        logs.say(log, "r-1", "thing.done n=%d", (logs.OPEN,), (2 * number,))
        log.info("thing.done n=%d", 2 * number + 1)
    stream.goes_on.set()
    outlet.close()
    assert [write.count("\n") for write in stream.writes] == [1, 100]
    assert re.findall(r"n=(\d+)", stream.writes[1]) == [str(number) for number in range(100)]


def test_a_line_says_what_was_so_when_it_was_logged(root: logging.Logger) -> None:
    changing = ["before"]

    def both() -> None:
        log.info("thing.done what=%s", changing)
        changing[0] = "after"

    assert "before" in written("text", both)


def test_a_line_that_comes_alone_is_there_without_another_one() -> None:
    near, far = os.pipe()
    with os.fdopen(near, "rb") as reader, os.fdopen(far, "w") as stream:
        outlet = logs.configure("info", "text", stream)
        for number in range(3):
            log.info("thing.done n=%d", number)
            assert reader.readline().endswith(b" n=%d\n" % number)
        outlet.close()


def test_what_is_logged_after_the_end_counts_as_lost(root: logging.Logger) -> None:
    stream = io.StringIO()
    outlet = logs.configure("info", "text", stream)
    outlet.close()
    log.info("too late")
    outlet.say("cortex.x", "r-1", "thing.done", (), ())
    assert outlet.dropped == 2
    assert not stream.getvalue()


class Mute:
    """What cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_value_that_cannot_be_told_costs_its_line_alone(root: logging.Logger) -> None:
    root.handlers[:] = []

    def say() -> None:
        logs.say(log, "r-1", "thing.done n=%.3f", (logs.OPEN,), (10**400,))
        log.info("thing.done what=%s", Mute())
        log.info("thing.done")

    first, second, third = written("text", say).splitlines()
    assert "logs.unreadable" in first and "OverflowError" in first
    assert "logs.unreadable" in second and "no words" in second
    assert third.endswith("thing.done")


def test_what_is_said_below_the_level_is_not(root: logging.Logger) -> None:
    root.handlers[:] = []
    stream = io.StringIO()
    outlet = logs.configure("warning", "text", stream)
    logs.say(log, "r-1", SAID, GIVEN, (1.256, "-"))
    outlet.close()
    assert not stream.getvalue()


def test_what_is_said_counts_as_lost_where_nobody_reads(root: logging.Logger) -> None:
    root.handlers[:] = []
    reads, writes = os.pipe()
    try:
        outlet = logs.Outlet(os.fdopen(writes, "w", closefd=False), bound=5)
        outlet.setFormatter(logs.Text(journal=False))
        root.addHandler(outlet)
        root.setLevel("INFO")
        began = time.monotonic()
        for _ in range(5_000):
            logs.say(log, "r-1", "load.done text=%s", ("x" * 500,), ())
        assert outlet.dropped > 3_000
        assert time.monotonic() - began < 5
    finally:
        os.close(reads)
        os.close(writes)


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_to_stand_in_every_line_does_whatever_way_it_is_said(
    root: logging.Logger, form: logs.Format
) -> None:
    """Of several processes that write one log, each says which it is."""
    stream = io.StringIO()
    outlet = logs.configure("info", form, stream, {"worker": "2"})
    logging.getLogger("cortex.x").info("thing.done seconds=%d", 3)
    logs.say(logging.getLogger("cortex.x"), "r-1", "request.done seconds=%d", (logs.OPEN,), (4,))
    outlet.close()
    lines = stream.getvalue().splitlines()
    if form == "text":
        assert lines[0].endswith("thing.done seconds=3 worker=2")
        assert lines[1].endswith("request.done seconds=4 worker=2 request=r-1")
    else:
        assert [json.loads(line)["worker"] for line in lines] == ["2", "2"]


def test_lines_of_several_that_share_a_full_pipe_stay_whole() -> None:
    """A pipe that is full takes a part of a long write, and then whatever another one has."""
    reads, writes = os.pipe()
    with open(reads, "rb", buffering=0) as reader, open(writes, "w") as stream:
        outlets = [logs.Outlet(stream, shared=True) for _ in range(3)]
        for outlet, letter in zip(outlets, "abc", strict=True):
            for _ in range(2000):
                outlet.handle(
                    logging.makeLogRecord({"levelno": 20, "levelname": "INFO", "msg": letter * 150})
                )
        data = b""
        while data.count(b"\n") < 6000:
            data += reader.read(30_000)
        for outlet in outlets:
            outlet.close()
    assert set(data.splitlines()) == {b"a" * 150, b"b" * 150, b"c" * 150}
