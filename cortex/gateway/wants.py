"""From a model's name to what the gateway's dispatcher is asked for."""

from cortex.catalogue import valid_id
from cortex.gateway.views import Views
from cortex.ledger import Want


def want_of(
    views: Views, model: str, caller: str, *, affinity: str = "", avoid: frozenset[str] = frozenset()
) -> Want:
    """A seat at `model` for `caller`, the name of a key or "", which may be loaded for it. Raises what
    `Listing.missing` says when nobody knows it.

    The bytes are the file's estimate, or none: the neuron looks at the weights, and its
    word binds. Seats are not counted here, so that every request has weight one.
    """
    listing = views.listing
    spec = listing.spec(model)
    if not valid_id(model) or (spec is None and not listing.ledger.holders(model)):
        raise listing.missing(model)
    return Want(
        model,
        spec,
        need_bytes=0 if spec is None or spec.footprint is None else spec.footprint,
        affinity=affinity,
        may_load=spec is not None,
        avoid=avoid,
        key=caller,
        share=views.accounts.share(caller),
    )
