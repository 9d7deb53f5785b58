"""What a model cannot be shown is refused here, before anybody loads it for that.

A body that may hold pictures, documents or sounds is read as a neuron would read it, and what that
would refuse is refused at once. Who is known to see gets every body unread. What only a neuron can
know is left to it.
"""

from typing import Final

from cortex.ask import Ask
from cortex.gateway.journey import Journey
from cortex.gateway.views import Views
from cortex.gateway.ways import Way
from cortex.translator import media
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES

# Types of parts, as they stand in a body; within a text their quotes are escaped. One that is
# spelt in another way passes, and meets the neuron's refusal.
_MARKS: Final = {
    CHAT.name: (b'"image_url"', b'"input_audio"', b'"file_data"'),
    RESPONSES.name: (b'"input_image"', b'"input_file"'),
    MESSAGES.name: (b'"image"', b'"document"'),
}
_MOST_NAMED: Final = 3


def possible(way: Way) -> bool:
    """Whether bodies of that way may hold anything to be shown."""
    return way.dialect.name in _MARKS


def doubtful(way: Way, body: bytes) -> bool:
    """Whether `body` must be read to know what is to be shown. A long one is looked through for long."""
    for mark in _MARKS.get(way.dialect.name, ()):  # noqa: SIM110 - a generator costs more than the looks
        if body.rfind(mark) >= 0:  # from the end it takes half the time
            return True
    return False


def ensure(ask: Ask, journey: Journey, views: Views) -> None:
    """Raises Unsupported for pictures that the model is known not to see. The models that do are named
    as the caller knows them."""
    listing, caller = views.listing, journey.request.caller
    if not ask.images or listing.sees(journey.model) is not False:
        return
    raise media.unseen(
        ask.images,
        journey.name,
        upstream=listing.elsewhere(journey.model),
        seers=views.names(caller, filter(listing.sees, listing.ids()))[:_MOST_NAMED],
    )
