"""For whom a gateway asks: its headers name the key, and that key's share of the turns.

Only what a gateway has routed is believed; of any other caller a neuron knows no key.
"""

from dataclasses import replace
from math import isfinite

from cortex.errors import BadAsk
from cortex.ledger import Want
from cortex.web.connection import Headers
from cortex.wire import neuron as wire


def on_behalf(want: Want, headers: Headers) -> Want:
    """`want` as a gateway has it: of its key, and of what is here, since gateways load by themselves."""
    share = _share(headers.get(wire.KEY_SHARE) or "1")
    return replace(want, may_load=False, key=headers.get(wire.KEY_NAME) or "", share=share)


def _share(said: str) -> float:
    try:
        share = float(said)
    except ValueError:
        share = 0.0
    if not isfinite(share) or share <= 0:
        raise BadAsk(f"{wire.KEY_SHARE} is a number above 0, not {said[:20]!r}", param=wire.KEY_SHARE)
    return share
