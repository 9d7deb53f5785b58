"""What a gateway tells a neuron of a request, beside the request: header fields of its own."""

from typing import Final

import trio

from cortex.ask import Sampling
from cortex.config.models import sampling_to_text
from cortex.dispatch import Dispatch
from cortex.gateway.journey import Journey
from cortex.keys import Accounts
from cortex.wire import neuron as wire

# Who has a seat at last is not refused for the moment that it takes to sit down.
LEAST_WAIT_S: Final = 1.0


class Orders:
    """`boot_id` marks requests as routed by this gateway."""

    def __init__(self, boot_id: str, accounts: Accounts, dispatch: Dispatch) -> None:
        self._boot_id, self._accounts, self._dispatch = boot_id, accounts, dispatch

    def fields(self, journey: Journey) -> dict[str, str]:
        """Those of one request, once it has its seat."""
        own = self.of(journey.request.caller, journey.sampling, self._patient_s(journey))
        own[wire.REQUEST_ID] = journey.request.id
        if journey.entry:
            own[wire.SPEC] = journey.entry
        return own

    def of(self, caller: str, sampling: Sampling | None, patient_s: float) -> dict[str, str]:
        """Those of every request of `caller` that samples so, and may wait so long at the neuron."""
        own = {wire.ROUTE: self._boot_id, wire.PATIENCE: f"{patient_s:.3f}"}
        if sampling is not None:
            own[wire.SAMPLING] = sampling_to_text(sampling)
        if caller:
            own[wire.KEY_NAME] = caller
            if (share := self._accounts.share(caller)) != 1:
                own[wire.KEY_SHARE] = f"{share:g}"
        return own

    def _patient_s(self, journey: Journey) -> float:
        """How long the neuron may let it wait: who waited here has waited, and is not to do so twice."""
        patience = self._dispatch.patience
        most_s = patience.load_s if journey.route == "cold" else patience.queue_s
        return max(LEAST_WAIT_S, most_s - (trio.current_time() - journey.began))
