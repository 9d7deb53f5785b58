"""Whatever happens in whatever order, the ledger's promises hold. Row 64: the scheduler as a state machine.

Two machines: a neuron's ledger, whose loads send victims away, and a gateway's, whose places
report. After every step lines are settled, as the dispatcher does.
"""

from dataclasses import replace
from functools import partial
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cortex import evictor, router
from cortex.catalogue import ModelSpec
from cortex.errors import Busy, LoadFailed, NeverFits, NoRoom, Stopping
from cortex.ledger import Decision, Ledger, Load, Plan, Refuse, Serve, Ticket, Wait, Want
from cortex.places import Resident, Room
from tests.fake_ledger import AGE_S, OVERTAKE_S, Clock, policy, resident

TOTAL = 100
SIZES = {"a": 60, "b": 60, "c": 40, "d": 30, "pinned": 25, "huge": 101}
SLOTS = {"a": 1, "b": 2, "c": 2, "d": None, "pinned": 2, "huge": 1}

SHARES = {"": 1.0, "x": 1.0, "y": 3.0}

MODELS = st.sampled_from(sorted(SIZES))
KEYS = st.sampled_from(["", "", "x", "y"])
PLACES = st.sampled_from(["p", "q"])
ERRORS = st.sampled_from([LoadFailed("torn"), Stopping("going")])
ANY = st.integers(0, 10**6)


def rooms() -> list[Room]:
    return [Room("g", TOTAL)]


def spec(model: str) -> ModelSpec:
    return ModelSpec(model, pinned_on=("p", "q") if model == "pinned" else ())


def measured(model: str, **facts: object) -> Resident:
    return resident(model, SIZES[model], slots=SLOTS[model], pinned=model == "pinned", **facts)


def check_plan(plan: Plan, decision: Decision, ledger: Ledger) -> None:
    """What was foretold is what was done, and the reason at that place says the same."""
    assert sorted(reason.place.name for reason in plan.reasons) == sorted(place.name for place in ledger)
    serving = [reason for reason in plan.reasons if reason.standing == "serves"]
    ways = [reason for reason in plan.reasons if reason.way is not None]
    match decision:
        case Serve():
            assert plan.verdict == decision and plan.place is decision.place
            assert serving[0].place is decision.place
        case Load():
            assert not serving and plan.place is decision.place
            way = ways[0].way
            assert way is plan.verdict or way == plan.verdict
            assert way.victims == decision.victims and way.newcomer.need == decision.resident.room_bytes
        case Wait():
            assert plan.verdict == decision and not serving
            if decision.plan is not None:
                assert ways[0].way == decision.plan and ways[0].standing == "waits"
        case Refuse(error):
            assert isinstance(plan.verdict, Refuse) and plan.verdict.error.message == error.message
            assert not (ways and isinstance(error, NeverFits | NoRoom | Busy))


class Machine(RuleBasedStateMachine):
    """What both roles have in common. `waiting` and `seated` are what a dispatcher would know."""

    delegates = False

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        modes = {"delegates": self.delegates, "queue_per_model": not self.delegates}
        self.ledger = Ledger(self.clock, policy(queue=12 if self.delegates else 4, **modes))
        self.waiting: list[Ticket] = []
        self.seated: list[Ticket] = []
        for name in ("p", "q"):
            self.ledger.open(name, rooms())

    # -- what requests do

    @rule(
        model=MODELS,
        weight=st.sampled_from([0, 1, 1, 1, 2]),
        evict=st.booleans(),
        routed=st.booleans(),
        key=KEYS,
    )
    def arrive(self, model: str, weight: int, evict: bool, routed: bool, key: str) -> None:
        caller = {"key": key, "share": SHARES[key]}
        want = Want(model, spec(model), SIZES[model], weight, may_load=not routed, evict=evict, **caller)
        before = self.looks()
        plan = self.ledger.plan(want)
        assert self.looks() == before
        ticket, decision = self.ledger.arrive(want)
        check_plan(plan, decision, self.ledger)
        if isinstance(decision, Wait | Load):
            self.waiting.append(ticket)
        self.hear(ticket, decision)
        self.settle()

    @precondition(lambda self: self.seated)
    @rule(which=ANY)
    def stand_up(self, which: int) -> None:
        self.ledger.depart(self.seated.pop(which % len(self.seated)))
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(which=ANY)
    def lose_patience(self, which: int) -> None:
        ticket = self.waiting.pop(which % len(self.waiting))
        assert self.ledger.overdue(ticket).status == 503
        self.ledger.depart(ticket)
        self.settle()

    def looks(self) -> str:
        """All that can be seen of the ledger."""
        return repr([self.ledger, *self.ledger, self.ledger.due, self.ledger.oldest, self.ledger.loads])

    # -- what loads do

    @precondition(lambda self: self.ledger.loads)
    @rule(which=ANY)
    def load_comes(self, which: int) -> None:
        self.finish(self.pick(which))

    @precondition(lambda self: self.ledger.loads)
    @rule(which=ANY, error=ERRORS, unloaded=st.integers(0, 2))
    def load_fails(self, which: int, error: LoadFailed | Stopping, unloaded: int) -> None:
        load = self.pick(which)
        self.unload(load, unloaded)
        for ticket in self.ledger.failed(load, error):
            self.waiting.remove(ticket)
        self.settle()

    @precondition(lambda self: self.ledger.loads)
    @rule(which=ANY)
    def victims_leave_while_the_load_goes_on(self, which: int) -> None:
        load = self.pick(which)
        self.unload(load, len(load.leaving))
        self.settle()

    def unload(self, load: Load, count: int) -> None:
        for one in load.leaving[:count]:
            if load.place.residents.get(one.model) is one:
                self.ledger.gone(load.place.name, one.model)

    def finish(self, load: Load) -> None:
        raise NotImplementedError

    def pick(self, which: int) -> Load:
        """A load that has begun: one that calls others off waits for their end."""
        under_way = set(self.ledger.loads.values())
        begun = [load for load in under_way if not under_way & set(load.calls_off)]
        return sorted(begun, key=lambda load: load.want.model)[which % len(begun)]

    @precondition(lambda self: self.dying())
    @rule(which=ANY)
    def called_off_load_ends(self, which: int) -> None:
        dying = self.dying()
        self.ledger.withdrawn(dying[which % len(dying)])
        self.settle()

    def dying(self) -> list[Load]:
        """Loads that end for the sake of others."""
        loads = self.ledger.loads.values()
        return [load for load in loads if any(load in other.calls_off for other in loads)]

    # -- what else happens

    @rule(seconds=st.sampled_from([0.5, 5.0, AGE_S, OVERTAKE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        self.settle()

    @rule(model=MODELS, place=PLACES)
    def engine_breaks(self, model: str, place: str) -> None:
        self.ledger.fault(place, model, "broken")
        self.settle()

    # -- the dispatcher's part

    def settle(self) -> None:
        for ticket, decision in self.ledger.settle():
            self.hear(ticket, decision)
        assert self.ledger.settle() == []  # one look is enough

    def hear(self, ticket: Ticket, decision: Decision) -> None:
        if isinstance(decision, Load):
            self.check_load(decision)
        elif not isinstance(decision, Wait):
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            if isinstance(decision, Serve):
                assert ticket.resident is decision.resident and decision.resident.servable
                self.seated.append(ticket)
            else:
                assert isinstance(decision, Refuse) and ticket.place is None

    def check_load(self, load: Load) -> None:
        assert self.ledger.loads[load.want.model] is load
        assert load.resident.phase == "loading"
        for victim in load.victims:
            assert not load.place.residents[victim].pinned
        for other in load.calls_off:
            assert self.ledger.waiting_for(other.want.model) == 0
        for one in load.leaving:
            assert one.seats == 0

    # -- what always holds

    @invariant()
    def seats_are_those_of_who_sits_and_never_exceed_the_slots(self) -> None:
        for place in self.ledger:
            for one in place:
                sitting = [ticket.want.weight for ticket in self.seated if ticket.resident is one]
                assert one.seats == sum(sitting)
                assert one.slots is None or one.seats <= one.slots
                assert 0 <= one.fresh <= one.seats
                assert one.elsewhere >= 0

    @invariant()
    def who_waits_stands_in_line(self) -> None:
        assert self.ledger.waiting == len(self.waiting)
        for model in SIZES:
            assert self.ledger.waiting_for(model) == sum(each.want.model == model for each in self.waiting)
            if model in self.ledger._lines:
                line = self.ledger._lines[model]
                assert all(ticket in line and 1 <= line.position(ticket) <= len(line) for ticket in line)
        arrivals = [ticket.arrived for ticket in self.waiting if ticket.want.weight]
        crowds = [len(each) for crowd in self.ledger._crowds.values() for each in crowd._keys.values()]
        assert sum(crowds) == len(arrivals) and all(crowds)
        assert self.ledger.oldest == min(arrivals, default=None)
        assert self.ledger.due > self.clock()

    @invariant()
    def a_free_seat_is_the_one_that_a_look_at_all_finds(self) -> None:
        """Comes before what files those anew that have changed."""
        for model in SIZES:
            for avoid, affinity in product((frozenset[str](), frozenset({"p"})), (None, "", "k")):
                want = Want(model, spec(model), key="x", avoid=avoid, affinity=affinity or "")
                if (free := self.ledger._free_seat(want, affinity)) is None:
                    continue
                for decides in ("", "k") if affinity is None else (affinity,):
                    ticket = Ticket(replace(want, affinity=decides), self.clock(), 10**9)
                    assert self.ledger._seat(ticket, self.ledger._has_line(want)) == Serve(*free)

    @invariant()
    def a_model_never_loads_twice_at_once(self) -> None:
        for model in SIZES:
            phases = [one.phase for _, one in self.ledger.holders(model)]
            assert phases.count("loading") <= 1

    @invariant()
    def the_index_of_holders_is_true(self) -> None:
        held = {(place.name, one.model) for place in self.ledger for one in place}
        indexed = {(place.name, model) for model in SIZES for place, _ in self.ledger.holders(model)}
        assert held == indexed

    @invariant()
    def who_serves_is_ranked_as_a_look_at_all_would_rank_them(self) -> None:
        for model in SIZES:
            holders, replicas = self.ledger.holders(model), self.ledger._serving(model)
            for affinity in ("", "a conversation"):
                ranked = router.rank(holders, affinity)
                assert list(replicas.ranked(affinity)) == ranked
                assert replicas.proven() == any(place.most is None for place, _ in ranked)

    @invariant()
    def a_place_is_found_as_a_look_at_all_would_find_it(self) -> None:
        for model in ("a", "d"):
            now, victims = self.clock(), self.ledger._victims()
            leaves = partial(evictor.movable, now=now, rules=self.ledger.policy.rules)
            question = router.Question(spec(model), SIZES[model], victims, now, ("b",), leaves)
            found = list(self.ledger._rooms.ways(question, lambda _: False))
            assert found == router.placements(question, self.ledger)

    @invariant()
    def those_who_wait_for_what_is_there_wait_for_a_reason(self) -> None:
        """No lost wake-up: whoever could sit does."""
        for ticket in self.waiting:
            if ticket.want.weight == 0:
                ready = [
                    place.ready and one.servable for place, one in self.ledger.holders(ticket.want.model)
                ]
                assert not any(ready)

    # -- and in the end

    def teardown(self) -> None:
        """When everything is given back, every waiter gets an end."""
        if not hasattr(self, "ledger"):
            return
        for _ in range(40):
            for load in self.dying():
                self.ledger.withdrawn(load)
            for load in list(self.ledger.loads.values()):
                self.finish(load)
            while self.seated:
                self.ledger.depart(self.seated.pop())
            self.tidy()
            self.clock.pass_by(AGE_S + OVERTAKE_S)
            self.settle()
        assert self.waiting == []
        assert "seats=0 waiting=0 loads=0" in repr(self.ledger)
        assert self.ledger.due == float("inf")

    def tidy(self) -> None:
        """What is leaving leaves, and what is broken is sent away."""
        for place in self.ledger:
            for one in list(place):
                if one.phase == "leaving" or one.fault is not None:
                    self.ledger.gone(place.name, one.model)


class NeuronMachine(Machine):
    """Places are devices. `cleared` is one that is being emptied, and who lived there."""

    @initialize()
    def open(self) -> None:
        super().open()
        self.pins: set[str] = set()
        self.cleared: tuple[str, list[Resident]] | None = None

    def finish(self, load: Load) -> None:
        self.unload(load, len(load.leaving))
        facts = measured(load.want.model, idle_unload_s=45.0)
        facts.pinned = facts.pinned or load.want.model in self.pins
        self.ledger.loaded(load, facts)
        self.settle()

    def tidy(self) -> None:
        super().tidy()
        if self.cleared is not None:
            self.place_is_filled_again(0)

    def check_load(self, load: Load) -> None:
        super().check_load(load)
        for victim in load.victims:
            one = load.place.residents[victim]
            assert one.phase == "leaving" and one.seats == 0
            # A load that nobody waits for may be called off at any age.
            assert one.unwanted or self.clock() >= one.loaded_at + AGE_S

    @rule(model=MODELS, place=PLACES)
    def operator_unloads(self, model: str, place: str) -> None:
        found = self.ledger.place(place)
        if found is not None and model in found.residents and found.residents[model].phase == "loaded":
            self.ledger.leaving(place, model, force=True)
        self.settle()

    @rule(model=MODELS, pinned=st.booleans())
    def operator_pins(self, model: str, pinned: bool) -> None:
        """What models.toml pins stays so."""
        if model != "pinned":
            self.ledger.pin(model, pinned=pinned)
            (self.pins.add if pinned else self.pins.discard)(model)
        self.settle()

    @rule()
    def idle_ones_leave(self) -> None:
        for place, one in self.ledger.idle():
            assert one.servable and not one.seats and not one.pinned
            assert not self.ledger.waiting_for(one.model)
            self.ledger.leaving(place.name, one.model)
        self.settle()
        assert self.ledger.idle() == [] and self.ledger.idle_due > self.clock()

    @precondition(lambda self: not self.cleared)
    @rule(place=PLACES)
    def place_is_emptied(self, place: str) -> None:
        if self.ledger.quiet_since(place) is not None:
            self.cleared = place, self.ledger.clear(place, "tidied up")
            assert not any(one.seats for one in self.cleared[1])
        self.settle()

    @precondition(lambda self: self.cleared)
    @rule(absent=st.integers(0, 2))
    def place_is_filled_again(self, absent: int) -> None:
        assert self.cleared is not None
        place, away = self.cleared
        for one in away[absent:]:
            self.ledger.returned(place, one, measured(one.model))
        self.ledger.reopen(place, "tidied up", away[:absent])
        self.cleared = None
        self.settle()

    @rule(place=PLACES)
    def unloads_end(self, place: str) -> None:
        found = self.ledger.place(place)
        assert found is not None
        for one in list(found):
            if one.phase == "leaving":
                self.ledger.gone(place, one.model)
        self.settle()

    @rule(place=PLACES)
    def device_is_lost(self, place: str) -> None:
        """Poisoned, and back as after a restart."""
        self.ledger.lost(place, "poisoned")
        self.settle()
        self.ledger.report(place, rooms(), (), self.clock())
        self.settle()

    @invariant()
    def no_byte_is_promised_twice(self) -> None:
        for place in self.ledger:
            promised = sum(one.bytes for one in place if one.phase != "leaving")
            assert promised <= TOTAL

    @invariant()
    def what_is_on_its_way_holds_its_bytes(self) -> None:
        for model, load in self.ledger.loads.items():
            assert load.place.residents[model] is load.resident


class GatewayMachine(Machine):
    """Places are neurons: `truth` is what lives there, whatever the gateway believes."""

    delegates = True

    @initialize()
    def open(self) -> None:
        super().open()
        self.truth: dict[str, dict[str, str]] = {"p": {}, "q": {}}
        self.questions: dict[str, tuple[float, dict[str, str]]] = {}

    def finish(self, load: Load) -> None:
        here = self.truth[load.place.name]
        for victim in load.victims:
            here.pop(victim, None)
        here[load.want.model] = "loaded"
        self.ledger.loaded(load, measured(load.want.model))
        self.settle()

    @rule(place=PLACES)
    def is_asked(self, place: str) -> None:
        self.questions[place] = (self.clock(), dict(self.truth[place]))
        self.clock.pass_by(0.1)

    @rule(place=PLACES)
    def answers(self, place: str) -> None:
        if place in self.questions:
            self.answer(place, *self.questions.pop(place))

    def answer(self, place: str, asked: float, told: dict[str, str]) -> None:
        counted = [ticket for ticket in self.seated if ticket.place is self.ledger.place(place)]
        residents = [
            measured(
                model,
                phase=phase,
                loaded_at=asked - 50.0,
                elsewhere=sum(ticket.want.weight for ticket in counted if ticket.want.model == model),
            )
            for model, phase in told.items()
        ]
        self.ledger.report(place, rooms(), residents, asked)
        self.settle()

    @rule(place=PLACES, model=MODELS)
    def another_gateway_loads(self, place: str, model: str) -> None:
        self.truth[place][model] = "loading"

    @rule(place=PLACES, model=MODELS)
    def another_gateways_load_ends(self, place: str, model: str) -> None:
        if model in self.truth[place]:
            self.truth[place][model] = "loaded"

    @rule(place=PLACES, model=MODELS)
    def neuron_forgets(self, place: str, model: str) -> None:
        """Found out by a request that it refuses."""
        self.truth[place].pop(model, None)
        found = self.ledger.place(place)
        if found is not None and model in found.residents and model not in self.ledger.loads:
            self.ledger.gone(place, model)
        self.settle()

    @rule(place=PLACES)
    def is_in_doubt(self, place: str) -> None:
        self.ledger.doubt(place, "the connection broke")
        self.settle()

    @rule(place=PLACES)
    def drains(self, place: str) -> None:
        self.ledger.shut(place, "it goes")
        self.settle()

    @rule(place=PLACES)
    def is_lost(self, place: str) -> None:
        self.truth[place].clear()
        self.questions.pop(place, None)
        for load in self.ledger.lost(place, "connection refused"):
            assert load.want.model not in self.ledger.loads
            self.ledger.loaded(load, measured(load.want.model))  # too late
        self.settle()

    @invariant()
    def a_model_never_loads_twice_at_once(self) -> None:
        """Other gateways may load it, too, but this one orders it once."""
        ours = [load.want.model for load in self.ledger.loads.values()]
        assert len(ours) == len(set(ours))

    def tidy(self) -> None:
        super().tidy()
        for place, living in self.truth.items():
            living.update(dict.fromkeys(living, "loaded"))
            self.answer(place, self.clock(), dict(living))


STEPS = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestNeuron = NeuronMachine.TestCase
TestNeuron.settings = STEPS
TestGateway = GatewayMachine.TestCase
TestGateway.settings = STEPS
