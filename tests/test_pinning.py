"""Pins that are written into models.toml: one key changes, and nothing else of the file."""

import os
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from cortex.cli import pinning
from cortex.cli.options import Site
from cortex.cli.trouble import Usage
from cortex.config.editing import KEY, digest_of, pinned, pins_of, replace_file
from cortex.errors import ConfigError
from cortex.wire.fleet import CatalogueModel, FleetNeuron, FleetReport, GatewayReport, Location

TEXT = """# All that we serve.
[[models]]
id = "a"   # small, and loved
context = 4096

# The big one.
[[models]]
id = "org/b"
pinned_on = [ "n1" ]  # until spring
footprint = "1GiB"

[models.sampling]
temperature = 0.5

# Short names.
[aliases]
quick = "a"
"""

SITE = Site("http://g")


def report(path: Path, *loaded: str, boot: str = "b1") -> FleetReport:
    """What a gateway tells that has the file of `path` in force; `a` is loaded on `loaded`."""
    told = GatewayReport(
        boot_id=boot,
        models_file=str(path),
        models_sha256=digest_of(path.read_bytes()) if path.exists() else "",
    )
    a = CatalogueModel(id="a", aliases=["quick"], locations=[Location(neuron=name) for name in loaded])
    return FleetReport(gateway=told, models=[a, CatalogueModel(id="org/b"), CatalogueModel(id="wild")])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def told(file: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets what the gateway answers."""

    def says(answer: FleetReport) -> None:
        monkeypatch.setattr("cortex.cli.asking.ask", lambda site, *asked, **more: answer)

    says(report(file, "n1", "n2"))
    return says


def lines_apart(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that one has and the other lacks."""
    one, two = before.splitlines(), after.splitlines()
    return [each for each in one if each not in two], [each for each in two if each not in one]


def test_a_pin_is_one_line_below_the_id_and_comments_stay_where_they_were() -> None:
    after = pinned(TEXT, "a", ["n1", "n2"])
    assert lines_apart(TEXT, after) == ([], ['pinned_on = ["n1", "n2"]'])
    assert after.splitlines()[3] == 'pinned_on = ["n1", "n2"]'
    assert pins_of(after, "a") == ("n1", "n2")


def test_a_pin_that_is_there_is_replaced_in_its_place_with_its_comment() -> None:
    after = pinned(TEXT, "org/b", ["n1", "n3"])
    (gone,), (come,) = lines_apart(TEXT, after)
    assert gone.startswith("pinned_on") and come == 'pinned_on = [ "n1", "n3" ]  # until spring'


LISTED = """[[models]]
id = "a"
pinned_on = [
  # The ones with the big cards.
  "n1",  # until spring
  "n2",  # for ever
]  # ask first
"""


def test_comments_in_the_list_stay_with_those_who_do() -> None:
    assert pinned(LISTED, "a", ["n1", "n2", "n3"]) == LISTED.replace("for ever\n", 'for ever\n  "n3",\n')
    assert pinned(LISTED, "a", ["n2"]) == LISTED.replace('  "n1",  # until spring\n', "")
    windows = pinned(LISTED.replace("\n", "\r\n"), "a", ["n1", "n3"])
    assert windows.count("\n") == windows.count("\r\n") and "until spring" in windows
    twice = LISTED.replace("n2", "n1")
    assert pins_of(pinned(twice, "a", ["n1"]), "a") == ("n1",)


def test_without_neurons_the_key_goes() -> None:
    after = pinned(TEXT, "org/b", [])
    assert lines_apart(TEXT, after) == (['pinned_on = [ "n1" ]  # until spring'], [])


@pytest.mark.parametrize(
    "text",
    [
        'models = [\n  {id = "a", context = 5}, # one\n  {id = "b"},\n]\n',
        "[[models]]\r\nid = 'a' # windows\r\n\r\n[[models]]\r\nid = 'b'\r\n",
        "[[models]]\nsampling.seed = 1\nid = 'a'",
    ],
)
def test_other_ways_to_write_an_entry_are_kept(text: str) -> None:
    after = tomllib.loads(pinned(text, "a", ["n"]))
    assert after["models"][0].pop("pinned_on") == ["n"]
    assert after == tomllib.loads(text)
    assert "#" not in text or "#" in pinned(text, "a", ["n"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[models]]\r\nid = 'a' # windows\r\n\r\n[[models]]\r\nid = 'b'\r\n", 'pinned_on = ["n"]\r\n'),
        ("[[models]]\r\nid = 'a'", '\r\npinned_on = ["n"]'),
        ("[[models]]\r\nid = 'a'\r\npinned_on = [\r\n 'x',\r\n] # by\r\n", 'pinned_on = ["n"] # by\r\n'),
        ("[[models]]\nid = 'a'", '\npinned_on = ["n"]'),
        ("[[models]]\n  id = 'a'\n  context = 5\n", '\n  pinned_on = ["n"]\n  context'),
    ],
)
def test_the_line_that_comes_in_ends_and_begins_as_its_neighbours_do(text: str, line: str) -> None:
    after = pinned(text, "a", ["n"])
    assert line in after
    assert ("\r\n" in text) == (after.count("\r\n") == after.count("\n"))
    assert after.endswith("\n") == text.endswith("\n")
    # What came in goes without a trace.
    assert KEY in text or pinned(after, "a", []).rstrip() == text.rstrip()


def test_an_entry_that_says_nothing_of_pins_is_left_as_it_is() -> None:
    assert pinned(TEXT, "a", []) == TEXT


def test_the_file_is_replaced_whole_with_its_mode_and_through_links(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    replace_file(link, TEXT.encode(), b"x = 1\n")
    assert (link.is_symlink(), file.read_text(), file.stat().st_mode & 0o777) == (True, "x = 1\n", 0o640)
    assert sorted(os.listdir(tmp_path)) == ["link.toml", "models.toml"]


def test_a_file_that_was_changed_meanwhile_is_left_alone(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="changed by somebody else"):
        replace_file(file, b"what was read", b"x = 1\n")
    assert file.read_text() == TEXT
    assert os.listdir(tmp_path) == ["models.toml"]


def test_a_file_that_would_change_its_owner_is_left_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group members may write to a folder, and give nothing away."""

    def refuses(handle: int, user: int, group: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "fchown", refuses)
    with pytest.raises(ConfigError, match=r"models.toml: belongs to user .* Run this as that user"):
        replace_file(file, TEXT.encode(), b"# other")
    assert file.read_text() == TEXT and list(file.parent.iterdir()) == [file]


def test_a_model_is_pinned_where_it_is_loaded_by_any_of_its_names(told, file: Path) -> None:
    said = pinning.write("quick", None, SITE, pins=True)
    assert pins_of(file.read_text(), "a") == ("n1", "n2")
    assert f"{file}: pinned_on of a is n1, n2, and was empty" in said
    told(report(file, "n1"))
    assert "says so already" in pinning.write("a", None, SITE, pins=True)


def test_a_model_is_unpinned_everywhere(told, file: Path) -> None:
    said = pinning.write("org/b", None, SITE, pins=False)
    assert pins_of(file.read_text(), "org/b") == ()
    assert "is empty, and was n1" in said


def test_what_the_gateway_does_not_have_in_force_is_not_touched(told, file: Path, tmp_path: Path) -> None:
    there = report(file, "n1")
    changed = TEXT + "# somebody's word\n"
    for answer, text, why in (
        (report(tmp_path / "none.toml", "n1"), TEXT, "not on this host"),
        (there, changed, "not what the gateway"),
        (report(file, "n1", boot=""), TEXT, "is a neuron's"),
        (FleetReport(gateway=GatewayReport(boot_id="b")), TEXT, "`cortex up` has no files"),
        (FleetReport(gateway=GatewayReport(boot_id="b", withheld=True)), TEXT, "only to keys"),
    ):
        file.write_text(text)
        told(answer)
        with pytest.raises(Usage, match=why):
            pinning.write("a", None, SITE, pins=True)
        assert file.read_text() == text


def test_what_has_no_entry_or_is_loaded_nowhere_is_told(told, file: Path) -> None:
    told(report(file))
    for model, why in (("wild", "has no entry"), ("a", "loaded nowhere")):
        with pytest.raises(Usage, match=why):
            pinning.write(model, None, SITE, pins=True)
    assert file.read_text() == TEXT


def test_a_neuron_that_is_named_is_pinned_to_although_nothing_is_loaded(told, file: Path) -> None:
    def fleet(*loaded: str) -> FleetReport:
        return replace(report(file, *loaded), neurons=[FleetNeuron(name="n1"), FleetNeuron(name="n2")])

    told(fleet())
    pinning.write("a", "n2", SITE, pins=True)
    assert pins_of(file.read_text(), "a") == ("n2",)
    told(fleet("n2"))
    with pytest.raises(Usage, match="there is no neuron 'n3'; there is n1, n2"):
        pinning.write("a", "n3", SITE, pins=True)
    pinning.write("a", "n1", SITE, pins=True)
    assert pins_of(file.read_text(), "a") == ("n2", "n1")
    told(fleet("n2"))
    pinning.write("a", "n2", SITE, pins=False)
    assert pins_of(file.read_text(), "a") == ("n1",)
