"""What the client of a stream is told of a generation: frames, all of one turn in one write.

Called at the end of each turn, in no task of its own, so that nothing here waits: what the kernel does not
take at once is for the request's task, and until that is out nothing more is read.
"""

from collections.abc import Generator, Sequence

from cortex.events import Event, Prefilled
from cortex.neuron.account import Account
from cortex.web.streaming import Stream
from cortex.wire import sse
from cortex.wire.sse import Frame


class Narration:
    """One stream, told by `machine`, which is a dialect's and fresh."""

    def __init__(
        self, machine: Generator[list[Frame], Event, None], stream: Stream, account: Account
    ) -> None:
        self._speak, self._stream, self._account = machine.send, stream, account
        self._opening = next(machine)

    def tell(self, events: Sequence[Event]) -> bool:
        """Whether all is out that `events` come to."""
        self._account.hear(events)
        frames = [frame for event in events for frame in self._speak(event)]
        if self._opening and (frames or any(isinstance(event, Prefilled) for event in events)):
            # The prompt fits, and is read: the next keep-alive may tell, since the first words (a tool
            # call, say) can be long in coming.
            self._stream.hold(*self._opening)
            self._opening = []
        return not frames or self._stream.push(sse.render(*frames))
