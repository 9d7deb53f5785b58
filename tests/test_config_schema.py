"""The schema for editors takes what the check takes, and refuses nothing else."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from cortex.cli import main
from cortex.config.files import check
from cortex.config.reading import Table
from cortex.config.schema import DIALECT, any_schema, read_page, schema
from cortex.config.tables import GATEWAY_FILE, MODELS_FILE, NEURON_FILE

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*/*.toml"))
FILES = {"gateway": GATEWAY_FILE, "neuron": NEURON_FILE, "models": MODELS_FILE}
NAMES = {"gateway": "cortex.toml", "neuron": "neuron.toml", "models": "models.toml"}

ENTRY = "[[models]]\nid = 'm'\n"
NEURON = "[[neurons]]\nname = 'n'\nendpoint = 'http://n:1'\n"
KEY = f"[[keys]]\nname = 'k'\nsha256 = '{'a' * 64}'\n"
FAULTY = [
    ("gateway", "[gateway]\nlisen = 'a:1'"),
    ("gateway", "[gateway]\nlisten = 31313"),
    ("gateway", "[gateway]\nlisten = 'nowhere'"),
    ("gateway", "[gateway]\nanonymous = 'yes'"),
    ("gateway", "[gateway]\nlog_format = 'xml'"),
    ("gateway", "[gateway]\ntrusted_networks = '10.0.0.0/8'"),
    ("gateway", "[gateway]\ntrusted_networks = ['anywhere']"),
    ("gateway", "[gateway]\nallowed_hosts = ['a', 'a']"),
    ("gateway", "[limits]\nbody = '24 stones'"),
    ("gateway", "[limits]\nbody = 1"),
    ("gateway", "[limits]\nqueue = 1.5"),
    ("gateway", "[limits]\nheader_s = '5 parsecs'"),
    ("gateway", "[limits]\nheader_s = 0"),
    ("gateway", "[poll]\nfailures = 0"),
    ("gateway", "[poll]\nfailures = true"),
    ("gateway", "[[neurons]]\nname = 'n'"),
    ("gateway", "[[neurons]]\nname = 'a b'\nendpoint = 'http://n:1'"),
    ("gateway", "[[neurons]]\nname = 'n'\nendpoint = 'https://n:1'"),
    ("gateway", "[neurons]\nname = 'n'\nendpoint = 'http://n:1'"),
    ("gateway", "[[keys]]\nname = 'k'\nsha256 = 'secret'"),
    ("gateway", "[discovery]\ninterval_s = 5"),
    ("gateway", "[discovery]\ndns = 'a..b'"),
    ("gateway", KEY + "expires = 'soon'"),
    ("gateway", KEY + "expires = 2030"),
    ("gateway", KEY + "max_in_flight = 0"),
    ("gateway", KEY + "models = ['a b']"),
    ("gateway", "[eviction]\nstrategy = 'random'"),
    ("gateway", "[aliases]\nfast = '../x'"),
    ("gateway", "[aliases]\n'a b' = 'x'"),
    ("neuron", "[devices]\nuse = ['gpu']"),
    ("models", ENTRY + "aliases = ['warm']\n[alias_sampling.warm]\ntemperature = -1.2"),
    ("models", ENTRY + "aliases = ['warm']\n[alias_sampling]\nwarm = 1.2"),
    ("neuron", "[devices]\ngroups = [['cuda:0']]"),
    ("neuron", "[devices]\ngroups = [['cuda:0', 'cpu']]"),
    ("neuron", "[harness.exllamav2]\nchunk = 300"),
    ("neuron", "[harness.llama]\nthreads = 1"),
    ("neuron", "[hub]\nendpoint = 'ftp://hub'"),
    ("neuron", "[[default_models]]\nquant = 'Q4'"),
    ("models", "[[models]]\nquant = 'Q4'"),
    ("models", ENTRY + "source = 'm.gguf'"),
    ("models", ENTRY + "harness = 'vllm'"),
    ("models", ENTRY + "lora = ['here']"),
    ("models", ENTRY + "cost = { input = 1 }"),
    ("models", ENTRY + "[models.sampling]\ntemperature = -1"),
    ("models", ENTRY + "[models.sampling]\nlogit_bias = { x = 1 }"),
    ("models", ENTRY + "revision = 'a..b'"),
]
SOUND = [
    ("gateway", NEURON + KEY + "expires = 2030-12-31\nmodels = ['org/*']"),
    ("gateway", NEURON + KEY + "expires = '2030-12-31T18:00Z'\ntokens_per_day = 5"),
    ("gateway", "models_config = 'm.toml'\n" + NEURON),
    ("gateway", NEURON + "[limits]\nbody = '1 gib'\nheader_s = '250MS'\nstall_s = 7"),
    ("gateway", NEURON + "[gateway]\nlisten = '[::]:0'\ntrusted_networks = ['fd00::/8', '10.1.2.3']"),
    ("gateway", NEURON + "[gateway]\nworkers = 4"),
    ("gateway", "[discovery]\ndns = '_c._tcp.x.'\nnameservers = ['10.0.0.1:53', '[::1]:5353']"),
    ("gateway", "[[neurons]]\nname = 'n'\nendpoint = 'HTTP://[::1]:80/'"),
    ("models", ENTRY + "harness = 'candle'\nvram_mb = 100\nlimit = { context = 5 }"),
    ("models", "[[models]]\nid = 'org/a:b..c'\nsource = 'hf:org/name@main:Q4_K_M'\n"),
    ("models", ENTRY + "harness = 'exllamav2'\ndraft = 'path:/x'\nlora = ['/a']"),
    ("models", ENTRY + "footprint = '19GiB'\n[models.sampling]\nlogit_bias = { 7 = -1.5 }\n"),
    ("models", ENTRY + "aliases = ['warm']\n[alias_sampling.warm]\ntemperature = 1.2"),
    ("neuron", "[devices]\ngroups = [['cuda:0', 'cuda:1']]\nmemory_limit = 5"),
    ("neuron", "[harness.exllamav2]\nchunk = 512\n[hub]\nendpoint = 'https://mirror/x'"),
]


def judge(kind, text):
    """Whether the schema takes a file."""
    validator = jsonschema.Draft202012Validator(schema(kind, read_page()))
    return not list(validator.iter_errors(tomllib.loads(text)))


def checked(folder, kind, text):
    """Whether `config check` takes it."""
    (folder / "m.toml").write_text("")
    file = folder / NAMES[kind]
    file.write_text(text)
    return not check(file).faults


@pytest.mark.parametrize("kind", FILES)
def test_a_schema_is_one_of_its_dialect(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind, read_page()))
    assert schema(kind, read_page())["$schema"] == DIALECT


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_an_example_passes(file):
    kind = check(file).kind
    assert judge(kind, file.read_text())
    jsonschema.validate(tomllib.loads(file.read_text()), any_schema(read_page()))


@pytest.mark.parametrize(("kind", "text"), FAULTY)
def test_what_the_check_refuses_by_itself_the_schema_refuses_too(tmp_path, kind, text):
    assert not checked(tmp_path, kind, text)
    assert not judge(kind, text)


@pytest.mark.parametrize(("kind", "text"), SOUND)
def test_what_the_check_takes_the_schema_takes_with_old_keys_and_odd_spellings(tmp_path, kind, text):
    assert checked(tmp_path, kind, text)
    assert judge(kind, text)


def walk(node, made, at=""):
    """Every key of the tables beside its place in the schema."""
    for name, inner in node.keys.items():
        shape = made["properties"][name]
        yield f"{at}{name}", inner, shape
        if isinstance(inner, Table):
            one = shape["additionalProperties"] if inner.named else shape["items"] if inner.many else shape
            yield from walk(inner, one, f"{at}{name}.")


@pytest.mark.parametrize("kind", FILES)
def test_every_key_is_explained_from_the_page_and_marked_when_it_is_old_or_idle(kind):
    for at, node, shape in walk(FILES[kind], schema(kind, read_page())):
        gone = isinstance(node, Table) and node.idle
        gone = gone or (not isinstance(node, Table) and bool(node.old or node.idle))
        assert shape.get("deprecated", False) == gone, at
        if not isinstance(node, Table):
            assert shape["description"] != f"Type: {node.word}.", at


def test_without_the_page_the_types_explain():
    from cortex.config.schema import Words

    made = schema("gateway", Words())
    assert made["properties"]["poll"]["properties"]["interval_s"]["description"] == "Type: span."


def test_the_command_prints_the_schema_of_a_kind_or_of_all(capsys):
    for arguments, made in (([], any_schema(read_page())), (["models"], schema("models", read_page()))):
        with pytest.raises(SystemExit) as left:
            main(["config", "schema", *arguments])
        assert left.value.code == 0
        assert json.loads(capsys.readouterr().out) == made


def test_the_wheel_takes_the_page_along():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"docs/config.md": "cortex/config/config.md"}
