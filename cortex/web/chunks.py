"""What nearly every piece of a stream is: whole chunks, and in each of them whole events.

Such a piece goes to the client as it came, with its chunk framing, and nobody takes it apart. It is proven
to be of that form by counting: each line end in it has its place. Whatever else comes (a comment, an event or
a chunk that goes on in the next piece, another line end, a chunk extension) is for the parsers. Pure.
"""

from cortex.web.tail import whole_events


def payloads(piece: bytes) -> list[bytes] | None:
    """What the chunks of `piece` hold, one or more whole events each, none of which is a comment. None
    where it is anything else than such chunks, from the first byte to the last."""
    parts = piece.split(b"\r\n")
    if parts.pop() or not parts or len(parts) % 2 or piece.count(b"\r") != len(parts):
        return None
    held = parts[1::2]
    for size, payload in zip(parts[::2], held, strict=True):
        if size != b"%x" % len(payload) or not whole_events(payload):
            return None
    return held
