"""The rounds of questions to each neuron: when they are asked, and what a failed one means.

Each neuron has its own task, so that one that hangs delays nobody, and another that keeps its
host's addresses fresh, so that a resolver that hangs delays no question. What an answer changes is
the fleet's to say. A gateway that is too slow itself blames no neuron.
"""

import logging
from typing import Final, Protocol

import trio

from cortex.config.gateway import Poll
from cortex.errors import CortexError, TooSlow, Unreachable
from cortex.gateway.member import Neuron
from cortex.gateway.remote import Remote
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

# Requests may fail by the hundred in a second, and each asks for a look.
APART_S: Final = 0.25


class Judge(Protocol):
    """Hears what came of each question."""

    def believe(
        self, neuron: Neuron, discovery: wire.Discovery, health: wire.Health, residents: wire.Residents
    ) -> None:
        """It answered."""

    def missed(self, neuron: Neuron, why: str, *, at_once: bool) -> None:
        """It did not; `at_once` when there is nobody to wait for."""


class Polling:
    """Asks neurons every `poll.interval_s`, which may be changed while they are watched."""

    def __init__(self, judge: Judge, poll: Poll) -> None:
        self._judge, self.poll = judge, poll
        # How late the loop was, all in all.
        self._late_s = 0.0

    def lagged(self, seconds: float) -> None:
        """The loop was so late, once more."""
        self._late_s += seconds

    async def watch(
        self, neuron: Neuron, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until the neuron's own scope is cancelled, or this is. Started once it was looked at, or is
        not asked any more."""
        looked = False
        with neuron.watching:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_addresses, neuron)
                await self.look(neuron)
                looked = True
                task_status.started()
                while True:
                    await self._rest(neuron)
                    await self.look(neuron)
        neuron.looked.set()
        if not looked:
            task_status.started()

    async def _rest(self, neuron: Neuron) -> None:
        """It is time for the next look."""
        with trio.move_on_at(neuron.asked_at + self.poll.interval_s):
            await neuron.look_now.wait()
            if neuron.suspected:
                await trio.sleep_until(neuron.asked_at + APART_S)
        neuron.look_now, neuron.suspected = trio.Event(), False

    async def _keep_addresses(self, neuron: Neuron) -> None:
        """Row 23 of the fault matrix: what worked is used until something newer is known."""
        while True:
            await neuron.pool.names.refresh()
            await trio.sleep(self.poll.interval_s)

    async def look(self, neuron: Neuron) -> None:
        """One round of questions; a failed one is counted. Cancelled, nothing is believed."""
        neuron.asked_at, remote, late_s = trio.current_time(), neuron.remote, self._late_s
        neuron.pool.sweep()
        try:
            await self._ask(neuron, remote)
        except (trio.TooSlowError, TooSlow):
            if not await self._lagging(late_s):
                why = f"it did not answer within {self.poll.timeout_s:g} s"
                self._missed(neuron, remote, why)
        except CortexError as error:
            self._missed(neuron, remote, error.message, at_once=isinstance(error, Unreachable))
        except Exception as bug:
            # One neuron's odd report must not end the polling of all.
            log.exception("neuron.unusable neuron=%s", neuron.name)
            self._missed(neuron, remote, f"its report cannot be used: {bug}")

    async def _ask(self, neuron: Neuron, remote: Remote) -> None:
        with trio.fail_after(self.poll.timeout_s):
            health = await remote.health()
            residents = await remote.models()
            known = neuron.discovery
            if known is None or known.boot_id != health.boot_id:
                known = await remote.discovery()
        if not health.boot_id == residents.boot_id == known.boot_id:
            self._missed(neuron, remote, "it was restarted while it was asked")
        elif _is_asked(neuron, remote):
            self._judge.believe(neuron, known, health, residents)
            _looked(neuron)

    def _missed(self, neuron: Neuron, remote: Remote, why: str, *, at_once: bool = False) -> None:
        if _is_asked(neuron, remote):
            self._judge.missed(neuron, why, at_once=at_once)
            _looked(neuron)

    async def _lagging(self, before_s: float) -> bool:
        """Whether this process is too slow itself to blame a neuron, or was since it had been late for
        `before_s`: a fleet must not be lost to a burst of requests here, nor to a host that stands still."""
        began = trio.current_time()
        for _ in range(2):  # of two rounds of the loop, one at least has everybody's turn in it
            await trio.lowlevel.checkpoint()
        lag_s, stood_s = trio.current_time() - began, self._late_s - before_s
        # A look takes some ten rounds. Half of the time is what a neuron has at least.
        if lag_s * 10 < self.poll.timeout_s and stood_s * 2 < self.poll.timeout_s:
            return False
        log.warning("gateway.lagging seconds=%.3f", max(lag_s, stood_s))
        return True


def _is_asked(neuron: Neuron, remote: Remote) -> bool:
    """Whether what `remote` says, or does not, is the neuron's still: it may have been moved or forgotten."""
    return neuron.remote is remote and not neuron.watching.cancel_called


def _looked(neuron: Neuron) -> None:
    neuron.looked_at = neuron.asked_at
    neuron.looked.set()
    neuron.looked = trio.Event()
