"""Bytes of tokens become text, never half a code point.

Engines may end a piece inside a code point; the rest comes with the next one.
Bytes that are no UTF-8 become one replacement character for each broken sequence,
and what follows them is read as ever: no answer ends because of a bad byte.
"""

import codecs


class Detokeniser:
    """One answer's bytes, in order."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Whether a code point has begun and not ended.
        self.waiting = False

    def feed(self, data: bytes) -> str:
        """The text that is certain by now."""
        if not self.waiting:
            # Nearly every token ends where a character does.
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(data)
        self.waiting = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """What is left at the end: a broken code point, replaced, or nothing."""
        self.waiting = False
        return self._decoder.decode(b"", final=True)
