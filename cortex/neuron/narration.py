"""What the client of a stream is told of a generation: frames, all of one turn in one write.

Called at the end of each turn, in no task of its own, so that nothing here waits: what the kernel does not
take at once is for the request's task, and until that is out nothing more is read.
"""

from collections.abc import Sequence

from cortex.events import Event, Prefilled, Text, Thought
from cortex.neuron.account import Account
from cortex.translator.speeches import Speech
from cortex.web.streaming import Stream
from cortex.wire import sse


class Narration:
    """One stream, told by `speech`, which is fresh. `single`: the answer has one choice."""

    def __init__(self, speech: Speech, stream: Stream, account: Account, *, single: bool) -> None:
        self._speech, self._stream, self._account = speech, stream, account
        self._single = single
        self._opening = speech.begin()

    def tell(self, events: Sequence[Event]) -> bool:
        """Whether all is out that `events` come to."""
        self._account.hear(events)
        data = self._told(events[0]) if len(events) == 1 else b"".join(map(self._told, events))
        if self._opening and (data or any(isinstance(event, Prefilled) for event in events)):
            # The prompt fits, and is read: the next keep-alive may tell, since the first words (a tool
            # call, say) can be long in coming.
            self._stream.hold(*self._opening)
            self._opening = []
        return not data or self._stream.push(data)

    def _told(self, event: Event) -> bytes:
        data = b""
        if self._single and isinstance(event, Text | Thought):
            # Nearly every event is one more piece of what the last one was a piece of.
            if isinstance(event, Thought):
                data = self._speech.run("thought", (event.text,))
            elif not event.logprobs:
                data = self._speech.run("text", (event.text,))
        return data or sse.render(*self._speech.say(event))
