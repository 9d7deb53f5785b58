"""The driver of push generators fails where a machine would lose an event."""

from collections.abc import Generator

import pytest

from cortex.events import Event, Stopped, Text
from tests.play import play, splits


def shout(*, silent_end: bool = False) -> Generator[list[str], Event, None]:
    said = ["open"]
    while True:
        match (yield said):
            case Text(text):
                said = [text.upper(), "!"]
            case Stopped():
                if not silent_end:
                    yield ["end"]
                return


def test_frames_of_priming_and_of_each_event_come_in_order():
    assert play(shout(), [Text("a"), Text("b"), Stopped("stop")]) == ["open", "A", "!", "B", "!", "end"]


def test_a_machine_may_return_at_the_end_event():
    assert play(shout(silent_end=True), [Text("a"), Stopped("stop")]) == ["open", "A", "!"]


@pytest.mark.parametrize("late", [Text("late"), Stopped("stop")])
@pytest.mark.parametrize("silent_end", [True, False])
def test_an_event_after_the_end_fails_the_test(late: Event, silent_end: bool):
    with pytest.raises(AssertionError, match="remain"):
        play(shout(silent_end=silent_end), [Stopped("stop"), late])


def test_splits_are_all_cuts_in_two_and_the_one_into_bytes():
    assert list(splits(b"ab")) == [[b"", b"ab"], [b"a", b"b"], [b"ab", b""], [b"a", b"b"]]
    assert all(b"".join(cut) == b"abc" for cut in splits(b"abc"))
