"""The benchmark of gateways judges what it measured rightly, and says what it did not measure."""

from pathlib import Path

import msgspec
import pytest

from tests.bench import corridor, goals, profiling, recipes, rivals, scale, soaking, stage
from tests.bench.goals import DIRECT, Goal, Kept, Measured, Verdict, judge
from tests.bench.loads import alone, paced
from tests.bench.rivals import NAMES, OURS, TWO
from tests.bench.stage import Run

USUAL = {
    "c": 1,
    "requests": 10,
    "errors": 0,
    "bad_events": 0,
    "events": 10,
    "rps": 1.0,
    "eps": 1.0,
    "lat_p50": 1,
    "lat_p99": 1,
    "ttft_p50": 1,
    "ttft_p99": 1,
    "gap_p99": 1,
    "cpu_s": 0.001,
}
# As the load client prints it.
TOLD = (
    b'{"c":32,"requests":300,"errors":1,"rps":150.0,"lat_p50":90,"lat_p90":95,"lat_p99":99,"lat_max":120,'
    b'"ttft_p50":40,"ttft_p99":50,"gap_p50":1,"gap_p90":2,"gap_p99":3,"gap_p999":4,"gap_max":5,'
    b'"over40":0.00000,"events":1900,"eps":950.5,"mbps":1.00,"conns":33,"bad_events":2,"lasterr":"eof"}\n'
)


def run(**figures: float) -> Run:
    return Run(**USUAL | figures)


def gateway(**runs: Run) -> Measured:
    return Measured(runs, idle_mb=50.0, after_mb=60.0)


def verdict(title: str, rounds: list[dict[str, Measured]]) -> Verdict:
    [found] = [each for each in judge(rounds) if each.goal.title.startswith(title)]
    return found


@pytest.mark.parametrize("module", [corridor, scale, rivals])
def test_each_says_how_it_is_used(module, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0
    assert "usage: python -m tests.bench." in capsys.readouterr().out


def test_what_the_load_client_prints_is_read() -> None:
    found = stage.read(TOLD)
    assert (found.requests, found.errors, found.bad_events, found.rps) == (300, 1, 2, 150.0)
    assert (found.eps, found.lat_p99, found.gap_p99, found.lasterr) == (950.5, 99, 3, "eof")


@pytest.mark.parametrize(
    "told",
    [b"", b"usage: load", *(TOLD.replace(b'"%b":' % name, b'"x":') for name in (b"events", b"gap_p99"))],
)
def test_what_is_no_report_of_a_load_is_not_taken_for_one(told: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        stage.read(told)


def test_the_load_client_itself_speaks_so(tmp_path: Path) -> None:
    stage.build(tmp_path)
    with stage.neurons(tmp_path, stage.Fleet.of(3, 4, 2)) as (port, process):
        target = stage.Target(DIRECT, port + 2, (), process, process)
        found = target.load(tmp_path, alone(0.3))
        many = target.load(tmp_path, paced(4, 0.3, ramp_s=0.1))
    assert found.requests > 0 and found.errors == found.bad_events == 0
    assert found.requests < 0.3 / 0.010, "it pauses after each answer"
    assert found.cpu_s > 0 and found.rss_mb > 0
    assert many.events > 0 and many.gap_p99 > 10_000


def test_a_rival_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    everybody = rivals.rivals(tmp_path)
    assert tuple(everybody) == NAMES
    absent = {name for name, rival in everybody.items() if not rival.version()}
    assert absent >= {"litellm", "portkey", "sglang-router", "vllm-router"}
    assert everybody[OURS].version()


def test_the_version_of_a_rival_is_that_of_its_folder(tmp_path: Path) -> None:
    packages = tmp_path / "sglang-router/lib/python3.11/site-packages"
    (packages / "sglang_router-0.3.2.dist-info").mkdir(parents=True)
    (packages / "sglang_router_other-9.dist-info").mkdir()
    module = tmp_path / "portkey/node_modules/@portkey-ai/gateway"
    module.mkdir(parents=True)
    (module / "package.json").write_text('{"version": "1.15.2"}')
    found = {name: rival.version() for name, rival in rivals.rivals(tmp_path).items()}
    assert (found["sglang-router"], found["portkey"]) == ("0.3.2", "1.15.2")
    assert rivals.version_in("nginx version: nginx/1.22.1\n") == "1.22.1"
    assert rivals.version_in("HAProxy version 2.6.12-1+deb12u4 2026/10/17") == "2.6.12-1+deb12u4"


def test_only_what_has_a_recipe_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        rivals.main(["install", str(tmp_path), "litellm", "llmproxy"])
    assert left.value.code == 2 and "no recipe for llmproxy" in capsys.readouterr().err
    assert set(recipes.NAMES) >= {name for name in NAMES if not name.startswith(OURS)}


def test_ratios_are_taken_within_a_round_and_told_as_their_median() -> None:
    rounds = [
        {"nginx": gateway(plain32=run(rps=theirs)), OURS: gateway(plain32=run(rps=ours))}
        for theirs, ours in ((100, 50), (10, 9), (20, 12))
    ]
    found = verdict("requests/s, c=32, beside nginx", rounds)
    assert found.figures == (0.5, 0.9, 0.6)
    assert found.row() == "| requests/s, c=32, beside nginx | ≥ 0.3 | 0.60 [0.50 to 0.90] | met |"
    assert "| requests/s, c=32 | 20 ±400% | 12 ±317% (0.6) |" in goals.figures_table(rounds)


def test_a_figure_that_nobody_has_is_no_row() -> None:
    told = goals.figures_table([{"nginx": gateway(plain32=run())}])
    assert "| requests/s, c=32 | 1 |" in told and "c=1" not in told.replace("c=32", "")


def test_a_goal_that_was_not_measured_is_neither_met_nor_missed() -> None:
    rounds = [{"nginx": gateway(plain32=run()), OURS: Measured(failed="it does not answer")}]
    assert {each.met for each in judge(rounds)} == {None, True, False} - {True, False}
    assert verdict("RSS MiB, idle", rounds).row().endswith("| ≤ 80 | - | not measured |")


def test_beside_the_better_of_two_counts_only_when_both_are_there() -> None:
    ours, slow, fast = (gateway(plain32=run(rps=rps)) for rps in (34, 10, 20))
    both = {OURS: ours, "sglang-router": slow, "vllm-router": fast}
    assert verdict("requests/s, beside the better", [both]).figures == (1.7,)
    assert verdict("requests/s, beside the better", [both]).met is True
    assert verdict("requests/s, beside the better", [{OURS: ours, "sglang-router": slow}]).met is None


def test_what_is_added_is_the_difference_to_the_mock_alone() -> None:
    measured = {
        DIRECT: gateway(plain1=run(lat_p50=100, lat_p99=1000), first1=run(ttft_p50=200)),
        OURS: gateway(plain1=run(lat_p50=400, lat_p99=2000), first1=run(ttft_p50=1300)),
    }
    p50, p99 = (verdict(f"latency added, c=1, {part}", [measured]) for part in ("p50", "p99"))
    assert p50.figures == (pytest.approx(0.3),) and p50.met is False
    assert p99.figures == (1.0,) and p99.met is True
    assert verdict("first event added", [measured]).met is False


def test_processor_time_is_told_for_each_event() -> None:
    chat, messages = run(cpu_s=0.01, events=1000), run(cpu_s=0.02, events=1000, eps=30)
    ours = gateway(stream32=chat, messages32=messages)
    theirs = gateway(stream32=run(cpu_s=0.008, events=1000, eps=60))
    rounds = [{"nginx": theirs, OURS: ours}]
    assert verdict("CPU an event", rounds).figures == (1.25,)
    assert verdict("CPU an event", rounds).met is False
    assert verdict("CPU us an event of Messages", rounds).figures == (10.0,)
    assert verdict("events/s of Messages", rounds).figures == (0.5,)


def test_two_workers_are_compared_with_one_of_nginx() -> None:
    rounds = [{"nginx": gateway(plain32=run(rps=10)), TWO: gateway(plain32=run(rps=6))}]
    assert verdict("requests/s of two workers", rounds).figures == (0.6,)


def test_a_missed_check_is_a_regression_and_a_missed_goal_is_none() -> None:
    ours = gateway(scraped200=run(gap_p99=26_000), plain32=run(rps=1))
    found = goals.regressions(judge([{"nginx": gateway(plain32=run(rps=100)), OURS: ours}]), None)
    assert found == ["p99 gap of 200 paced streams, scraped, ms: 26, but ≤ 25 is due"]
    ours.runs["scraped200"].gap_p99 = 25_000
    assert goals.regressions(judge([{OURS: ours}]), None) == []


@pytest.mark.parametrize(("now", "fell"), [(0.81, False), (0.79, True), (2.0, False)])
def test_a_ratio_may_not_fall_below_four_fifths_of_what_it_was(now: float, fell: bool) -> None:
    goal = Goal("rate", 0.3, lambda measured: None, gate=True)
    found = goals.regressions([Verdict(goal, (now,))], [Verdict(goal, (1.0,))])
    assert bool(found) is fell
    cost = Goal("cost", 1.2, lambda measured: None, most=True, gate=True)
    assert bool(goals.regressions([Verdict(cost, (1 / now,))], [Verdict(cost, (1.0,))])) is fell
    other = Goal("other", 0.3, lambda measured: None, gate=True)
    assert goals.regressions([Verdict(other, (now,))], [Verdict(goal, (1.0,))]) == []


def test_what_is_kept_can_be_read_again() -> None:
    kept = Kept({"rounds": "1"}, {OURS: "1"}, {"litellm": "not installed"}, [{OURS: gateway(plain1=run())}])
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Kept) == kept


def test_what_was_not_measured_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Measured(failed="it does not answer")
    kept = Kept({}, {OURS: "1"}, {"litellm": "not installed"}, [{OURS: gateway()}, {OURS: broken}])
    assert corridor.report(kept, None) == []
    told = capsys.readouterr().out
    assert "Not measured: litellm, not installed." in told
    assert "Not measured in round 2: cortex, it does not answer" in told
    assert "Disturbed" not in told


def test_a_run_beside_others_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    corridor.report(Kept({}, {OURS: "1"}, {}, [{OURS: gateway(plain1=run(others=0.9))}]), None)
    assert "Disturbed: other programs had up to 0.9 cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "rungs", "found"),
    [
        (100, 1, 100),
        (100, 4, 172),
        (100, 9, 296),  # 355 is too much
        (400, 1, 231),  # down by a step, whatever the rungs are
        (2000, 3, 129),  # ever faster
    ],
)
def test_a_ladder_ends_at_the_highest_rung_that_holds(start: int, rungs: int, found: int) -> None:
    assert corridor.climb(lambda streams: streams <= 300, start, 1.2, rungs) == found


def test_a_ladder_without_a_rung_that_holds_ends_at_nothing() -> None:
    assert corridor.climb(lambda streams: False, 100, 1.2, 3) == 0


def test_memory_is_told_by_the_minute_and_grows_from_the_first_to_the_last() -> None:
    samples = [50.0] + [100.0] * 11 + [103.0] * 12 + [110.0, 104.0, 104.0]
    assert soaking.by_minute(samples, 5.0) == [100.0, 103.0, 104.0]
    assert soaking.growth([100.0, 110.0, 104.0]) == pytest.approx(0.04)


def test_a_profile_is_shares_of_what_was_at_work_itself() -> None:
    main = "thread (0x7f): MainThread;main (/src/cortex/cli/run.py)"
    stacks = [
        f"{main};send (/src/cortex/web/link.py:9) 6",
        f"{main};take (/src/cortex/web/link.py:20) 2",
        f"{main};run (<built-in>);wait (/x/lib/python3.11/site-packages/trio/_run.py) 2",
        "thread (0x8f): outlet;wait (/src/cortex/logs/outlet.py) 90",
    ]
    assert profiling.by_room(stacks) == [("cortex/web/link.py", 0.8), ("trio/_run.py", 0.2)]
    assert profiling.by_function(stacks)[0] == ("send (cortex/web/link.py:9)", 0.6)


def test_a_column_for_each_size_of_fleet() -> None:
    small = scale.Spent(10, 1.0, 70.0, 500.0, 250.0, 2000.0, 20_480, 3000.0, 12_288)
    large = scale.Spent(1000, 3.0, 90.0, 510.0, 255.0, 90_000.0, 2_048_000, 100_000.0, 1_228_800)
    rows = [str(row) for row in scale.fleet_rows([small, large])]
    assert "| a request for a resident model, CPU us | 250 | 255 |" in rows
    assert "| /metrics, CPU ms | 2.0 | 90.0 |" in rows
