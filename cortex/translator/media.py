"""Pictures in a request: taken as data, held to bounds, and refused by name where nobody sees them.

Nothing is ever fetched: an address could be anybody's, ours included. A picture is what its own
header says, whatever its label, and goes on byte for byte. Documents other than plain text, files
and sounds are refused at their place, with what to send instead.
"""

import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cortex.ask import Image, Message
from cortex.errors import BadAsk, Unsupported
from cortex.wire.pictures import header_of

MOST_IMAGES: Final = 16
MOST_BYTES: Final = 20 * 2**20
MOST_PIXELS: Final = 32_000_000
DETAILS: Final = ("auto", "low", "high")
# How metrics call what is refused here.
REASON: Final = "media"
# A multiple of four, so that each is whole; between two of them other threads have their turn.
_PIECE: Final = 2**18
_INSTEAD: Final = {
    "document": "send its text in a text block, or its pages as images",
    "search_result": "send its text in a text block",
    "input_file": "send its text as input_text, or its pages as input_image",
    "file": "send its text as a text part, or its pages as image_url parts",
    "input_audio": "send a transcript as text",
    "audio_url": "send a transcript as text",
    "video_url": "send single pictures of it",
}


@dataclass(slots=True)
class Content:
    """What one turn says, piece by piece: texts as they stand, and pictures between them."""

    texts: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    length: int = 0

    def say(self, text: str) -> None:
        """A text comes next."""
        self.texts.append(text)
        self.length += len(text)

    def show(self, image: Image) -> None:
        """A picture comes next."""
        self.images.append(replace(image, at=self.length))

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def turn(self, message: Message) -> Message:
        """`message` with this to say."""
        return replace(message, text=self.text, images=tuple(self.images))


def of_url(url: str | None, at: str, place: str) -> Image:
    """The picture of a data URL, which is the field `at` of the part at `place`."""
    if not url:
        raise BadAsk(f"'{at}' is missing: it holds the picture, as a data URL", param=at)
    head, comma, _ = url[:256].partition(",")
    label = head.lower()
    if not label.startswith("data:"):
        raise Unsupported(
            f"'{at}' must be a data URL: nothing is fetched from elsewhere here. Send the picture itself, as "
            "data:image/png;base64,...",
            param=at,
            reason="ssrf",
        )
    if not comma or not label.startswith("data:image/") or not label.endswith(";base64"):
        raise BadAsk(
            f"'{at}' must be the data URL of a picture in base64: data:image/png;base64,...",
            param=at,
            reason=REASON,
        )
    return of_base64(url[len(head) + 1 :], at, place)


def of_base64(data: str | None, at: str, place: str) -> Image:
    """The picture that the field `at` holds in base64."""
    if not data:
        raise BadAsk(f"'{at}' is missing: it holds the picture, in base64", param=at)
    if len(data) > (MOST_BYTES + 2) // 3 * 4:
        raise _bad(f"is larger than {MOST_BYTES >> 20} MiB; send a smaller picture", at)
    header = header_of(_decoded(data, at))
    if header is None:
        raise _bad("holds no picture that is known here: send PNG, JPEG, GIF or WebP", at)
    if not (header.width and header.height):
        raise _bad(f"breaks off: its header is no whole one of {header.kind}", at)
    if header.width * header.height > MOST_PIXELS:
        size = f"{header.width}x{header.height}"
        raise _bad(f"is a picture of {size}; the most are {MOST_PIXELS // 10**6} million pixels", at)
    if header.moves:
        raise _bad("holds several pictures that follow each other; send each as an image of its own", at)
    return Image(header.kind, data, place=place)


def detail(said: str | None, at: str) -> str | None:
    """How closely a picture is to be looked at, which the field `at` says."""
    if said is not None and said not in DETAILS:
        raise Unsupported(f"'{at}' must be one of {', '.join(DETAILS)}", param=at)
    return said


def bounded(messages: Iterable[Message]) -> tuple[Message, ...]:
    """`messages`, that have no more pictures than a request may have."""
    found = tuple(messages)
    images = [image for message in found for image in message.images]
    if len(images) > MOST_IMAGES:
        place = images[MOST_IMAGES].place
        raise BadAsk(
            f"'{place}' is picture {MOST_IMAGES + 1}, and a request may have {MOST_IMAGES}; leave some out",
            param=place,
            reason=REASON,
        )
    return found


def stray(kind: str, at: str) -> BadAsk:
    """The refusal of a part that no turn can have; `kind` is its type."""
    if kind in _INSTEAD:
        return Unsupported(f"'{at}': '{kind}' is not read here; {_INSTEAD[kind]}", param=at, reason=REASON)
    return Unsupported(f"'{at}': parts of type '{kind}' are not supported here", param=at)


def misplaced(at: str) -> BadAsk:
    """The refusal of a picture where none is taken."""
    return Unsupported(
        f"'{at}': pictures are taken from users and from tools only; move it there", param=at, reason=REASON
    )


def unseen(images: Sequence[Image], model: str, *, upstream: bool, seers: Sequence[str] = ()) -> Unsupported:
    """The refusal of pictures by a model that does not see; `seers` are models that do."""
    why = (
        'nothing says that it sees. If it does, add "vision" to its capabilities in models.toml'
        if upstream
        else "it reads text only, as all models of llama.cpp and exllamav2 here. A model of an upstream can "
        'see, where its capabilities in models.toml say "vision"'
    )
    instead = f"Ask {' or '.join(seers)} instead" if seers else "GET /v1/models lists what each can do"
    place = images[0].place or "messages"
    return Unsupported(
        f"'{place}': the model '{model}' cannot be shown pictures: {why}. {instead}.",
        param=place,
        reason=REASON,
    )


def uncounted(images: Sequence[Image]) -> Unsupported:
    """The refusal to count a prompt with pictures, for a model that sees them: an engine that is asked
    for tokens tells those of its text."""
    place = images[0].place or "messages"
    return Unsupported(
        f"'{place}': what a picture comes to in tokens is known only to the engine that is shown it. Count "
        "without pictures, or send the request itself",
        param=place,
        reason=REASON,
    )


def _decoded(text: str, at: str) -> bytes:
    pieces: list[bytes] = []
    for begin in range(0, len(text), _PIECE):
        piece = text[begin : begin + _PIECE]
        try:
            pieces.append(binascii.a2b_base64(piece, strict_mode=True))
        except ValueError as error:  # also of text that is not ASCII
            raise _bad("is not valid base64", at) from error
        if "=" in piece[-2:] and begin + _PIECE < len(text):
            raise _bad("is not valid base64", at)
    return b"".join(pieces)


def _bad(what: str, at: str) -> BadAsk:
    return BadAsk(f"'{at}' {what}", param=at, reason=REASON)
