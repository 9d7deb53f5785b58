"""For whom a gateway asks: its headers name the key, that key's share of the turns, and how long
the request may wait yet.

Only what a gateway has routed is believed; of any other caller a neuron knows no key.
"""

from dataclasses import replace
from math import inf, isfinite

from cortex.errors import BadAsk
from cortex.ledger import Want
from cortex.web.connection import Headers
from cortex.wire import neuron as wire


def on_behalf(want: Want, headers: Headers) -> Want:
    """`want` as a gateway has it: of its key, and of what is here, since gateways load by themselves."""
    return replace(
        want,
        may_load=False,
        key=headers.get(wire.KEY_NAME) or "",
        share=_number(headers, wire.KEY_SHARE, 1.0),
        patience_s=_number(headers, wire.PATIENCE, inf),
    )


def _number(headers: Headers, name: str, otherwise: float) -> float:
    """What the header `name` says, or `otherwise` where it is absent."""
    said = headers.get(name)
    if said is None:
        return otherwise
    try:
        number = float(said)
    except ValueError:
        number = 0.0
    if not isfinite(number) or number <= 0:
        raise BadAsk(f"{name} is a number above 0, not {said[:20]!r}", param=name)
    return number
