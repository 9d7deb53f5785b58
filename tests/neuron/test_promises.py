"""What a model's file promises is read when the file has changed, and the last promise is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import ExLlamaV2, LlamaCpp, NeuronConfig
from cortex.errors import Unfit
from cortex.evictor import Rules
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.scripted import Script, ScriptedHarness
from cortex.ledger import Ledger, Policy
from cortex.neuron import promises
from cortex.neuron.engines import Engines
from cortex.neuron.pins import Pins
from cortex.neuron.residents import Residents
from cortex.neuron.sources import Found
from cortex.neuron.state import State


class Counting(ScriptedHarness):
    """Counts the headers that were read, and keeps the orders."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.orders: list[LoadOrder] = []

    @property
    def read(self) -> int:
        return len(self.orders)

    def preflight(self, order: LoadOrder) -> Preflight:
        self.orders.append(order)
        return super().preflight(order)


def looking(
    root: Path, name: str = "llamacpp", *known: ModelSpec, trained: int = 8192, **said: object
) -> tuple[Residents, Counting]:
    """The residents of a neuron whose one harness is called `name`."""
    harness = Counting(Script(trained_context=trained))
    engines = Engines({name: harness}, {name: None}, {name: None})
    ledger = Ledger(trio.current_time, Policy(Rules("lru", 0.0), 1, 1.0))
    config = NeuronConfig(model_roots=(root,), **said)
    found = Found(Catalogue({spec.id: spec for spec in known}), (root,))
    return Residents(config, found, {}, engines, ledger, pins=Pins(State(None))), harness


def folder(path: Path) -> Path:
    """What a scripted harness takes for a model."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").touch()
    return path


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_a_changed_file_replaces_its_promise(tmp_path: Path) -> None:
    residents, harness = looking(tmp_path)
    spec = ModelSpec("a", source=f"path:{tmp_path}/a.gguf")
    for size in range(1, 6):
        (tmp_path / "a.gguf").write_bytes(b"x" * size)
        for _ in range(3):
            await residents.want(spec)
        assert harness.read == size
    await residents.want(replace(spec, context=77))
    assert harness.read == 6
    assert len(residents._promises._promises) == 1


CUDA = ExLlamaV2(cache="q6", chunk=512, attention="triton")


async def test_a_folder_is_ordered_as_its_entry_and_the_keys_of_its_harness_say(tmp_path: Path) -> None:
    model, small, adapter = (folder(tmp_path / name) for name in ("model", "small", "adapter"))
    residents, harness = looking(
        tmp_path, "exllamav2", ModelSpec("small", source=f"path:{small}"), exllamav2=CUDA
    )
    spec = ModelSpec("m", source=f"path:{model}", draft="small", lora=(str(adapter),), cache_tokens=10_000)
    await residents.want(replace(spec, context=4096, slots=3))
    (order,) = harness.orders
    assert order == LoadOrder(
        model="m",
        path=model,
        device="cpu",
        context=4096,
        slots=3,
        cache="q6",
        options={"chunk": 512, "attention": "triton"},
        draft=small,
        lora=(adapter,),
        kv_tokens=10_240,
    )
    await residents.want(ModelSpec("m", source=f"path:{model}", cache="q4", speculation="ngram"))
    assert harness.orders[-1].cache == "q4"
    assert harness.orders[-1].options == {"chunk": 512, "attention": "triton", "speculation": "ngram"}
    assert (harness.orders[-1].draft, harness.orders[-1].kv_tokens) == (None, None)


async def test_a_gguf_is_ordered_as_the_keys_of_llamacpp_say(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    residents, harness = looking(tmp_path, exllamav2=CUDA, llamacpp=LlamaCpp(threads=3, batch=64, mmap=False))
    await residents.want(ModelSpec("a", source=f"path:{tmp_path}/a.gguf"))
    assert harness.orders[0].cache == "fp16"
    assert harness.orders[0].options == {"threads": 3, "batch": 64, "mmap": False}


async def test_whichever_of_its_files_changes_a_model_is_looked_at_again(tmp_path: Path) -> None:
    parts = [folder(tmp_path / name) for name in ("model", "small", "adapter")]
    residents, harness = looking(tmp_path, "exllamav2")
    model, small, adapter = parts
    spec = ModelSpec("m", source=f"path:{model}", draft=f"path:{small}", lora=(str(adapter),))
    digests = set()
    for count, part in enumerate(parts, 1):
        (part / "model.safetensors").write_bytes(b"x" * count)
        for _ in range(2):
            await residents.want(spec)
        assert harness.read == count
        digests.add(residents._promises._promises["m"][1].order.digest)
    # What was learned of it, and what it is blamed for, goes with all of its files.
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("context", "trained", "cache_tokens", "granted"),
    [
        (None, 8192, 1000, 1024),
        (None, 512, 1000, 512),
        (None, 32768, 20_000, 8192),
        (1024, 8192, 1000, 1024),
    ],
)
async def test_a_context_that_is_not_said_fits_the_cache(
    tmp_path: Path, context: int | None, trained: int, cache_tokens: int, granted: int
) -> None:
    model = folder(tmp_path / "model")
    residents, harness = looking(tmp_path, "exllamav2", trained=trained)
    await residents.want(ModelSpec("m", source=f"path:{model}", context=context, cache_tokens=cache_tokens))
    assert harness.orders[-1].context == granted
    assert residents._promises._promises["m"][1].order.context == granted


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"draft": "nobody"}, ["its draft 'nobody' is no model that this neuron knows", "models.toml"]),
        ({"draft": "cpu"}, ["'cpu' is a model of llamacpp", "a folder of safetensors"]),
        ({"draft": "path:{root}/model"}, ["its draft is the model itself"]),
        ({"draft": "path:/elsewhere/small"}, ["/elsewhere/small is not below", "model_roots"]),
        ({"draft": "path:{root}/gone"}, ["gone: No such file", "models.toml"]),
        ({"lora": ("/elsewhere/adapter",)}, ["/elsewhere/adapter is not below", "model_roots"]),
        ({"lora": ("{root}/link",)}, ["link is not below"]),
        ({"lora": ("{root}/a.gguf",)}, ["its lora", "a.gguf' is no folder", "adapter_config.json"]),
    ],
)
async def test_what_cannot_go_with_a_model_is_refused_by_name(
    tmp_path: Path, said: dict[str, object], words: list[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.gguf").touch()
    (root / "link").symlink_to(folder(tmp_path / "outside"))
    model = folder(root / "model")
    residents, harness = looking(
        root, "exllamav2", ModelSpec("cpu", source=f"path:{root}/a.gguf"), ModelSpec("x")
    )
    placed = {
        key: tuple(each.format(root=root) for each in value)
        if isinstance(value, tuple)
        else str(value).format(root=root)
        for key, value in said.items()
    }
    with pytest.raises(Unfit) as caught:
        await residents.want(replace(ModelSpec("m", source=f"path:{model}"), **placed))
    for word in words:
        assert word in caught.value.message
    assert harness.orders == []


async def test_of_many_names_for_one_file_the_latest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "MOST_KEPT", 3)
    residents, harness = looking(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"x")
    specs = [ModelSpec(f"m{number}", source=f"path:{tmp_path}/a.gguf") for number in range(5)]
    for spec in specs:
        await residents.on_disk(spec)
    assert harness.read == 5
    for spec in specs[2:]:
        await residents.on_disk(spec)
    assert harness.read == 5
    await residents.on_disk(specs[0])
    assert harness.read == 6
