"""What a person sees of a fleet, at the widths that terminals have."""

import io
import json

import pytest
from rich.console import Console, RenderableType

from cortex.status import view
from cortex.wire.fleet import (
    CatalogueModel,
    FleetLoad,
    FleetModel,
    FleetNeuron,
    FleetReport,
    GatewayReport,
    Location,
)
from cortex.wire.neuron import DeviceHealth

GIB = 2**30
LONG = "Qwen/Qwen3-Coder-30B-A3B-Instruct-GGUF"

REPORT = FleetReport(
    status="degraded",
    gateway=GatewayReport(version="0.1.0", boot_id="b", uptime_s=11000),
    neurons=[
        FleetNeuron(
            name="beast",
            endpoint="http://10.0.0.2:13131",
            state="ok",
            report_age_s=0.4,
            devices=[
                DeviceHealth(
                    name="cuda:0",
                    memory_total=32 * GIB,
                    memory_used=24 * GIB,
                    utilization=0.87,
                    temperature=71,
                ),
                DeviceHealth(name="cpu", memory_total=128 * GIB, memory_used=20 * GIB, poisoned=True),
            ],
            models=[
                FleetModel(
                    id=LONG,
                    devices=["cuda:0"],
                    bytes={"cuda:0": 21 * GIB},
                    in_flight=3,
                    queue=2,
                    slots=4,
                    tok_s=43.21,
                    pinned=True,
                ),
                FleetModel(id="small", devices=["cpu"], bytes={"cpu": GIB}, slots=2, idle_s=333),
            ],
            warnings=["no token"],
        ),
        FleetNeuron(
            name="benjy", endpoint="http://10.0.0.3:13131", state="away", why="refused", report_age_s=44
        ),
    ],
    models=[
        CatalogueModel(id="small", state="loaded"),
        CatalogueModel(id="other", feasible_on=["beast", "benjy"], aliases=["o", "x"]),
        CatalogueModel(id="huge", state="unservable", why="needs 80GiB"),
    ],
    waiting=3,
    loads=[
        FleetLoad(
            model="other", neuron="beast", running_s=12, waiting=2, done_bytes=3 * GIB, total_bytes=9 * GIB
        )
    ],
    warnings=["no keys"],
)


def shown(picture: RenderableType, width: int = 120, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(picture)
    return stream.getvalue()


def line_of(text: str, word: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(word)).split()


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("degraded", 1), ("impaired", 1)])
def test_the_exit_code_says_whether_all_is_well(status: str, code: int) -> None:
    assert view.exit_code(FleetReport(status=status)) == code  # type: ignore[arg-type]


def test_json_is_the_report_as_it_came() -> None:
    loaded = json.loads(view.as_json(REPORT))
    assert loaded["neurons"][0]["devices"][0]["memory_used"] == 24 * GIB
    assert view.as_json(REPORT).count("\n") > 20
    assert "\n" not in view.as_json(REPORT, lines=False)
    assert json.loads(view.as_json(REPORT, lines=False)) == loaded


def test_the_headline_says_who_where_and_how_it_is() -> None:
    first = shown(view.picture(REPORT, "http://127.0.0.1:31313")).splitlines()[0]
    assert first == "cortex gateway 0.1.0 at http://127.0.0.1:31313  degraded  up 3h3m  3 waiting"
    alone = FleetReport(neurons=[FleetNeuron(name="n", state="ok")])
    first = shown(view.picture(alone, "http://127.0.0.1:13131")).splitlines()[0]
    assert first == "cortex neuron at http://127.0.0.1:13131  ok"


def test_every_device_has_its_memory_and_its_neuron_is_named_once() -> None:
    text = shown(view.picture(REPORT, "http://e"))
    assert line_of(text, "beast")[:3] == ["beast", "ok", "cuda:0"]
    assert line_of(text, "beast")[-4:] == ["24GiB", "32GiB", "87%", "71°C"]
    assert "cpu     poisoned" in text
    assert line_of(text, "benjy") == ["benjy", "away", "-"]


def test_a_fuller_device_has_a_longer_bar() -> None:
    def bar(used: int) -> int:
        neuron = FleetNeuron(name="n", devices=[DeviceHealth(name="d", memory_total=100, memory_used=used)])
        return shown(view.picture(FleetReport(neurons=[neuron]), "http://e")).count("━")

    assert bar(0) == 0
    assert 0 < bar(30) < bar(60) < bar(100) == 12
    assert bar(900) == 12


def test_a_resident_shows_what_it_does() -> None:
    text = shown(view.picture(REPORT, "http://e"))
    assert line_of(text, LONG)[1:] == ["loaded", "pinned", "beast", "cuda:0", "21GiB", "3/4", "2", "43.2"]
    assert line_of(text, "small") == ["small", "loaded", "beast", "cpu", "1GiB", "0/2", "5m33s"]


def test_models_that_live_nowhere_are_listed_with_the_reason_or_the_hope() -> None:
    text = shown(view.picture(REPORT, "http://e"))
    assert "may live on beast, benjy" in text
    assert line_of(text, "huge") == ["huge", "unservable"]
    assert "! huge: needs 80GiB" in text.splitlines()
    assert sum(line.startswith("small") for line in text.splitlines()) == 1


def test_loads_and_warnings_stand_below() -> None:
    lines = shown(view.picture(REPORT, "http://e")).splitlines()
    [load] = [line for line in lines if "loading other" in line]
    assert load.split("  ", 1)[0].strip(" ").startswith("━━━━")
    assert load.endswith(" loading other on beast  3GiB of 9GiB (33%)  for 12s  2 waiting")
    assert "! no keys" in lines
    assert "! beast: no token" in lines
    assert "! benjy at http://10.0.0.3:13131: refused (last report 44s ago)" in lines


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_is_cut_and_no_line_is_too_long(width: int) -> None:
    text = shown(view.picture(REPORT, "http://127.0.0.1:31313"), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join(text.split())
    for figure in ("24GiB", "32GiB", "87%", "71°C", "21GiB", "3/4", "43.2", "5m33s"):
        assert figure in squeezed, figure


def test_the_terminal_obeys_nothing_that_came_over_the_wire() -> None:
    evil = "m\x1b]0;owned\x07\n[red]x"
    report = FleetReport(
        neurons=[
            FleetNeuron(
                name=evil,
                why=evil,
                devices=[DeviceHealth(name=evil)],
                models=[FleetModel(id=evil, state=evil)],
            )
        ],
        models=[CatalogueModel(id=evil + "2", aliases=[evil], why=evil, locations=[Location(neuron=evil)])],
        loads=[FleetLoad(model=evil, neuron=evil)],
        warnings=[evil],
    )
    for picture in (
        view.picture(report, "http://e"),
        view.catalogue(report.models),
        view.one(report.models[0]),
    ):
        text = shown(picture, 300)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "[red]" in text


def test_colour_only_repeats_what_a_word_says() -> None:
    plain = shown(view.picture(REPORT, "http://e"))
    coloured = shown(view.picture(REPORT, "http://e"), colour=True)
    assert "\x1b[" not in plain
    assert "\x1b[33mdegraded" in coloured
    assert "degraded" in plain


def test_a_gateway_without_neurons_says_so() -> None:
    assert "No neuron is configured" in shown(view.picture(FleetReport(), "http://e"))


def test_the_catalogue_has_a_line_for_each_model() -> None:
    models = [
        CatalogueModel(
            id="a",
            state="loaded",
            locations=[Location(neuron="n", devices=["cpu"], bytes=GIB)],
            aliases=["x"],
        ),
        CatalogueModel(id="b", feasible_on=["n"]),
    ]
    lines = [line.split() for line in shown(view.catalogue(models)).splitlines()]
    assert lines == [
        ["MODEL", "STATE", "WHERE", "ALIASES", "SIZE"],
        ["a", "loaded", "n", "cpu", "x", "1GiB"],
        ["b", "unloaded", "may", "live", "on", "n"],
    ]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_long_cause_is_a_line_of_its_own_and_squeezes_no_column(width: int) -> None:
    why = "no neuron that could hold it is up: n1 has 22GiB on cuda:0, and it needs 41GiB; see `cortex plan`"
    models = [
        CatalogueModel(id="Qwen/Qwen3-8B", state="unservable", why=why),
        CatalogueModel(id="b", feasible_on=["n1"]),
    ]
    for picture in (view.picture(FleetReport(models=models), "http://e"), view.catalogue(models)):
        lines = shown(picture, width).splitlines()
        assert [line.split() for line in lines if line.startswith("Qwen/Qwen3-8B")] == [
            ["Qwen/Qwen3-8B", "unservable"]
        ]
        at = next(n for n, line in enumerate(lines) if line.startswith("! "))
        assert " ".join(line.strip() for line in lines[at:]) == f"! Qwen/Qwen3-8B: {why}"


def test_where_nothing_is_loaded_names_have_the_room_of_figures() -> None:
    models = [CatalogueModel(id=LONG, feasible_on=["workstation-one", "workstation-two"])]
    lines = shown(view.picture(FleetReport(models=models), "http://e"), 100).splitlines()
    assert ["MODEL", "STATE", "WHERE"] in [line.split() for line in lines]
    assert f"{LONG}  unloaded  may live on workstation-one, workstation-two" in lines


def test_of_many_neurons_and_many_causes_a_few_are_named_and_the_others_counted() -> None:
    names = [f"n{n}" for n in range(9)]
    models = [CatalogueModel(id="a", feasible_on=names)]
    models += [CatalogueModel(id=f"m{n}", state="unservable", why="no room") for n in range(8)]
    text = shown(view.picture(FleetReport(models=models), "http://e"))
    assert line_of(text, "a")[2:] == ["may", "live", "on", "n0,", "n1,", "n2", "and", "6", "others"]
    told = [line for line in text.splitlines() if line.startswith("! ")]
    assert told == [f"! m{n}: no room" for n in range(5)] + [
        "! and 3 other models: `cortex models list` tells why"
    ]
    assert sum(line.startswith("! ") for line in shown(view.catalogue(models)).splitlines()) == 8
    held = CatalogueModel(
        id="a", state="loaded", locations=[Location(neuron=name, devices=["cpu"]) for name in names]
    )
    assert "n0 cpu, n1 cpu, n2 cpu and 6 others" in shown(view.catalogue([held]))


def test_one_model_tells_everything() -> None:
    model = CatalogueModel(
        id="a",
        state="recovering",
        locations=[Location(neuron="n", devices=["cpu"], bytes=GIB)],
        aliases=["x"],
        why="engine failed",
        waiting=7,
    )
    assert "pinned" not in shown(view.one(model))
    text = shown(view.one(model, ["n", "m"]))
    for said in (
        "pinned at    n, m",
        "7 requests",
        "a",
        "recovering",
        "n cpu loaded 1GiB",
        "no neuron",
        "x",
        "engine failed",
    ):
        assert said in text


# -- in a window


def tall(picture: RenderableType, width: int, height: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, height=height).print(picture)
    return stream.getvalue().splitlines()


BIG = FleetReport(
    gateway=GatewayReport(version="0.1.0", boot_id="b"),
    neurons=[
        FleetNeuron(name=f"n{n}", state="ok", devices=[DeviceHealth(name="cpu", memory_total=9)])
        for n in range(9)
    ],
    models=[CatalogueModel(id=f"m{n}", waiting=n % 2) for n in range(30)],
    loads=[FleetLoad(model="m1", neuron="n1", done_bytes=1, total_bytes=4, eta_s=75, phase="download")],
    warnings=["mind the step"],
)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 20), (80, 12), (80, 8)])
def test_a_window_keeps_what_matters_and_says_how_much_it_does_not_show(width: int, height: int) -> None:
    lines = tall(view.picture(BIG, "http://e", height), width, height)
    assert len(lines) <= height
    assert lines[0].startswith("cortex gateway")
    assert lines[-1] == "! mind the step"
    said = " ".join(" ".join(lines).split())
    assert "download m1 on n1 1B of 4B (25%) 1m15s left" in said
    if height >= 20 and width >= 80:
        hidden = [int(line.split()[0]) for line in lines if line.endswith("do not fit")]
        shown = sum(line.startswith(("n", "m")) and line[1:2].isdigit() for line in lines)
        assert hidden and shown + sum(hidden) == 39


def test_a_window_that_is_tall_enough_shows_all() -> None:
    lines = tall(view.picture(BIG, "http://e", 60), 80, 60)
    assert not any("do not fit" in line for line in lines)
    assert lines == tall(view.picture(BIG, "http://e"), 80, 60)


def test_who_waits_for_what_is_told_unless_a_load_tells_it() -> None:
    models = [CatalogueModel(id="a", waiting=3), CatalogueModel(id="b", waiting=1), CatalogueModel(id="c")]
    text = shown(view.picture(FleetReport(models=models), "http://e"))
    assert "waiting: 3 for a, 1 for b" in text.splitlines()
    loads = [FleetLoad(model="a", neuron="n")]
    text = shown(view.picture(FleetReport(models=models, loads=loads), "http://e"))
    assert "waiting: 1 for b" in text.splitlines()
    assert "and for 9 other models" in shown(view.picture(BIG, "http://e"))


def test_a_narrow_window_has_the_columns_of_most_weight() -> None:
    text = shown(view.picture(REPORT, "http://e"), 50)
    assert "UTIL" not in text and "IDLE" not in text and "SIZE" not in text
    for figure in ("24GiB", "3/4", "43.2"):
        assert figure in text
    assert max(map(len, text.splitlines())) <= 50


def test_how_fast_prompts_are_read_is_told_where_it_is_known_and_there_is_room() -> None:
    model = FleetModel(id="m", tok_s=40.0, tok_s_prefill=1834.4)
    report = FleetReport(neurons=[FleetNeuron(name="n", models=[model])])
    assert "1834" in line_of(shown(view.picture(report, "http://e"), 100), "m")
    assert "PREFILL" not in shown(view.picture(report, "http://e"), 99)
    assert "PREFILL" not in shown(view.picture(REPORT, "http://e"), 120)


def test_while_nobody_answers_the_last_picture_stays_with_the_reason_above() -> None:
    lines = tall(view.silence("Connection\nrefused", 75, REPORT, "http://e", 24), 80, 24)
    assert lines[0] == "no answer for 1m15s: Connection\\nrefused"
    assert lines[2].startswith("cortex gateway 0.1.0")
    assert len(lines) <= 24
    assert tall(view.silence("no", 0, None, "http://e", 24), 80, 24) == ["no answer for 0.0s: no"]


def test_a_lost_device_shows_that_instead_of_its_memory() -> None:
    devices = [DeviceHealth(name="a", poisoned=True), DeviceHealth(name="b", absent=True)]
    text = shown(view.picture(FleetReport(neurons=[FleetNeuron(name="n", devices=devices)]), "http://e"))
    assert "a       poisoned" in text and "b       absent" in text


def test_an_address_that_the_reason_names_is_not_named_twice() -> None:
    away = FleetNeuron(name="n", endpoint="http://h:1", state="away", why="http://h:1 refused")
    text = shown(view.picture(FleetReport(neurons=[away]), "http://e"))
    assert "! n: http://h:1 refused (never heard from)" in text
