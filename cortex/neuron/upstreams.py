"""The upstreams of this neuron: which there are, what they have, and whether they are there.

An address is one that the neuron's own files name, in `[harness.upstream]` or as the source of
a model: nobody else can have requests sent anywhere. Each is asked for its models now and then,
in a thread and off the path of requests. One that does not answer makes its residents not
servable until it does; a model that is no longer in its list has broken.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cortex.catalogue import UPSTREAM, Catalogue, ModelSpec, valid_id
from cortex.config.upstream import UpstreamConfig
from cortex.errors import CortexError, Unfit
from cortex.harness.base import LoadOrder
from cortex.harness.upstream import NAME, Told, UpstreamHarness, listed_by, missing

log = logging.getLogger(__name__)

PLACE: Final = NAME
THREAD: Final = "upstream-0"
LOOK_S: Final = 10.0  # a look has its own limits, which are shorter; a resolver has none


@dataclass(frozen=True, slots=True)
class Address:
    """Where a spec is served, and under which name."""

    url: str
    name: str


def address_of(spec: ModelSpec) -> Address | None:
    """The address in the source of `spec`; None when its source is none of an upstream. The name
    there is what stands behind the #, else the id."""
    if spec.source is None or not spec.source.startswith(UPSTREAM):
        return None
    url, _, name = spec.source.removeprefix(UPSTREAM).partition("#")
    return Address(url.rstrip("/"), name or spec.id)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a model cannot be served before a look (`before`) and after it (`away`), until the upstream
    is there again; `gone`: it is there, and the model is not."""

    model: str
    before: str | None
    away: str | None
    gone: str | None


@dataclass(slots=True, eq=False)
class _Upstream:
    """One address. `fault` says why the last look failed; None before the first, "" after a good
    one. `offers`: all its models are offered."""

    url: str
    offers: bool
    there: Mapping[str, Told] = field(default_factory=dict)
    fault: str | None = None
    look_now: trio.Event = field(default_factory=trio.Event)
    looked: trio.Event = field(default_factory=trio.Event)
    # Its own thread: a resolver that hangs must not take one of those that all share.
    thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))


class Upstreams:
    """`on_look` is told of each address that was looked at."""

    def __init__(self, config: UpstreamConfig, catalogue: Catalogue, more: Iterable[ModelSpec] = ()) -> None:
        self._config = config
        named = [address.url for spec in (*catalogue, *more) if (address := address_of(spec))]
        offered = [url.rstrip("/") for url in config.endpoints]
        self._all = {url: _Upstream(url, url in offered) for url in (*offered, *named)}
        self._harness = UpstreamHarness(config)
        self._skipped: set[str] = set()
        self._specs: dict[str, ModelSpec] = {}
        self._away: dict[str, str] = {}
        self.on_look: Callable[[str], None] = lambda url: None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._all)

    @property
    def harness(self) -> UpstreamHarness:
        """What loads their models."""
        return self._harness

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep looking until cancelled."""
        async with trio.open_nursery() as nursery:
            for upstream in self._all.values():
                nursery.start_soon(self._watch, upstream)
            task_status.started()
            await trio.sleep_forever()

    async def seen(self) -> None:
        """Each has been looked at. `run` must be running."""
        for upstream in self._all.values():
            while upstream.fault is None:
                await upstream.looked.wait()

    def order(self, spec: ModelSpec) -> LoadOrder:
        """The order that loads `spec`. Raises Unfit for an address that is not ours."""
        address = address_of(spec)
        if address is None:
            raise Unfit(
                f"Model '{spec.id}' has harness '{NAME}' and no address: set its source to "
                '"upstream:http://host:port/v1" in models.toml'
            )
        if address.url not in self._all:
            raise Unfit(
                f"Model '{spec.id}' is at {address.url}, which no file of this neuron names; add it to "
                "[harness.upstream] endpoints, or the model to its models.toml"
            )
        return LoadOrder(
            model=spec.id,
            path=Path(),
            device=PLACE,
            context=spec.context or 0,
            slots=spec.slots or self._config.slots,
            options={"url": address.url, "name": address.name},
        )

    @property
    def offers(self) -> bool:
        """Whether there are endpoints whose models are all offered."""
        return any(upstream.offers for upstream in self._all.values())

    def offered(self) -> Mapping[str, ModelSpec]:
        """The models of the endpoints by their names there, the first endpoint before the next. Those
        of one that is not there at present are among them."""
        return self._specs

    def judge(self, url: str, specs: Iterable[ModelSpec]) -> Iterator[Verdict]:
        """What became of those of `specs` that are served at `url`, by the last look at it."""
        upstream = self._all[url]
        away = f"the upstream {url} is not there: {upstream.fault}" if upstream.fault else None
        for spec in specs:
            address = address_of(spec)
            if address is None or address.url != url:
                continue
            gone = away is None and address.name not in upstream.there
            before = self._away.pop(spec.id, None)
            if away is not None:
                self._away[spec.id] = away
            yield Verdict(spec.id, before, away, missing(address.name, url, upstream.there) if gone else None)

    def warnings(self) -> Iterator[str]:
        """For /health: who is not there."""
        for upstream in self._all.values():
            if upstream.fault:
                yield f"upstream {upstream.url} is not there: {upstream.fault}"

    def suspect(self, spec: ModelSpec) -> None:
        """A request for `spec` failed there: it is looked at now."""
        if (address := address_of(spec)) is not None and address.url in self._all:
            self._all[address.url].look_now.set()

    async def _watch(self, upstream: _Upstream) -> None:
        while True:
            upstream.look_now = trio.Event()
            await self._look(upstream)
            with trio.move_on_after(self._config.look_s):
                await upstream.look_now.wait()

    async def _look(self, upstream: _Upstream) -> None:
        """What it has is known, or why that is not known, which is said once."""
        if upstream.thread.borrowed_tokens:
            return  # the thread of an earlier look hangs still
        fault = f"no answer in {LOOK_S:g} s"
        with trio.move_on_after(LOOK_S):
            try:
                upstream.there = await trio.to_thread.run_sync(
                    self._ask, upstream.url, abandon_on_cancel=True, limiter=upstream.thread
                )
                fault = ""
            except CortexError as error:
                fault = error.message
        self._tell(upstream, fault)
        upstream.fault = fault
        self._specs = self._offer()
        upstream.looked.set()
        upstream.looked = trio.Event()
        self.on_look(upstream.url)

    def _offer(self) -> dict[str, ModelSpec]:
        specs: dict[str, ModelSpec] = {}
        for upstream in self._all.values():
            for name in upstream.there if upstream.offers else ():
                if valid_id(name):
                    spec = ModelSpec(name, source=f"{UPSTREAM}{upstream.url}#{name}", harness=NAME)
                    specs.setdefault(name, spec)
        return specs

    def _ask(self, url: str) -> Mapping[str, Told]:
        return listed_by(self._harness.endpoint(url), self._config.connect_s)

    def _tell(self, upstream: _Upstream, fault: str) -> None:
        if fault and not upstream.fault:
            log.warning("upstream.lost url=%s why=%s", upstream.url, fault)
        elif not fault and upstream.fault != "":
            log.info("upstream.up url=%s models=%d", upstream.url, len(upstream.there))
        for name in upstream.there if upstream.offers else ():
            if not valid_id(name) and name not in self._skipped:
                self._skipped.add(name)
                log.warning(
                    "upstream.skipped url=%s name=%.80s why='it is no model id' "
                    "remedy='name it in models.toml with #name at the end of source'",
                    upstream.url,
                    name,
                )
