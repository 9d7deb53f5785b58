"""What is said is handed over before it is told that no more comes, however that came about."""

from collections.abc import Sequence

import pytest
import trio

from cortex.events import EngineEvent, Event, Text, Tokens
from cortex.harness.seats import Mailbox
from cortex.neuron.generation import Generation


class Reader:
    """Tells every word, and breaks at `broken`."""

    finished = False

    def feed(self, event: EngineEvent) -> Sequence[Event]:
        assert isinstance(event, Tokens)
        if event.data == b"broken":
            raise ZeroDivisionError("a bug")
        return [Text(event.data.decode())]


@pytest.mark.parametrize("choices", [1, 2])
async def test_a_bug_in_reading_takes_nothing_along_that_was_said_before_it(choices: int) -> None:
    """Nor is the rest read: the request has failed."""
    mailbox, told = Mailbox(choices), list[Event]()
    generation = Generation(mailbox, [Reader() for _ in range(choices)], choices)
    for word in (b"one", b"two", b"broken", b"three"):
        mailbox.hear(choices - 1, Tokens(word, 1))
    with trio.fail_after(5):
        for _ in range(2):  # as it is told who comes again
            with pytest.raises(ZeroDivisionError):
                await generation.flow(lambda said: bool(told.extend(said)) or True)
    assert told == [Text("one"), Text("two")] and not generation.finished


async def test_a_bug_is_told_when_a_slow_client_has_what_was_said_before_it() -> None:
    mailbox, told = Mailbox(1), list[Event]()
    generation = Generation(mailbox, [Reader()], 1)
    for word in (b"one", b"broken"):
        mailbox.hear(0, Tokens(word, 1))
    with trio.fail_after(5):
        await generation.flow(lambda said: bool(told.extend(said)))
        assert told == [Text("one")] and not generation.finished
        with pytest.raises(ZeroDivisionError):
            await generation.flow(lambda said: bool(told.extend(said)))
