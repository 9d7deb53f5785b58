"""The predecessor's files in their own form: checked by the command, and served from by a gateway."""

from pathlib import Path

import httpx
import pytest
import trio

from cortex.cli import main
from cortex.config.whole import whole_gateway
from cortex.gateway import run
from tests.fake_neuron import FakeNeuron, body, fake_neuron
from tests.roles import MIB

GOLDEN = Path(__file__).parent.parent / "golden" / "config"
INSTALLED = "/etc/cortex/models.toml"
TOLD = (
    "cortex.toml:3: models_config: is read as gateway.models_config; write it there",
    "models.toml:5: models[0].harness: 'candle' is no harness here; the weights' format chooses one",
    "models.toml:7: models[0].vram_mb: is read as footprint, in MiB; write footprint instead",
    "models.toml:9: models[0].min_device_vram_mb: is read as min_device_memory, in MiB; write "
    "min_device_memory instead",
    "models.toml:10: models[0].pinned_on: pins the model, too: it is never evicted from these neurons",
    "models.toml:11: models[0].limit: has no effect in this version",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Both files as they are, but for the folder where they lie."""
    text = (GOLDEN / "predecessor-cortex.toml").read_text()
    assert text.count(INSTALLED) == 1
    (tmp_path / "cortex.toml").write_text(text.replace(INSTALLED, str(tmp_path / "models.toml")))
    (tmp_path / "models.toml").write_bytes((GOLDEN / "predecessor-models.toml").read_bytes())
    return tmp_path / "cortex.toml"


def point(file: Path, *neurons: FakeNeuron) -> None:
    """The hosts of the file are these, and have the memory that its model needs."""
    text = file.read_text()
    hosts = ("beast.internal:13131", "benjy.internal:13131", "10.3.0.4:13131")
    for host, neuron in zip(hosts, neurons, strict=True):
        neuron.memory = 48 * 1024 * MIB
        text = text.replace(f"http://{host}", neuron.url)
    file.write_text(text)


def test_the_check_takes_both_files_with_a_warning_for_each_key_that_changed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["config", "check", str(file)])
    shown = capsys.readouterr()
    assert not ended.value.code and shown.out == f"ok: {file} (gateway)\n"
    assert shown.err.splitlines() == [f"warning: {file.parent}/{each}" for each in TOLD]


async def test_a_gateway_serves_from_both_files(file: Path) -> None:
    """By the alias, at the neuron that `pinned_on` names, with the class and the sizes of the file."""
    with trio.fail_after(30):
        async with fake_neuron() as beast, fake_neuron() as benjy, fake_neuron() as third:
            point(file, beast, benjy, third)
            env = {f"CORTEX_GATEWAY__{key}": "127.0.0.1:0" for key in ("LISTEN", "METRICS_LISTEN")}
            read = whole_gateway(file, env)
            assert list(read.warnings) == [f"{file.parent}/{each}" for each in TOLD]
            async with trio.open_nursery() as nursery:

                async def serve(*, task_status: trio.TaskStatus) -> None:
                    await run(read.config, read.catalogue, task_status=task_status)

                ports = await nursery.start(serve)
                url = f"http://127.0.0.1:{ports.api[1]}"
                async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as http:
                    answer = await http.post("/v1/chat/completions", content=body("qwen"))
                    assert (answer.status_code, answer.headers["x-cortex-neuron"]) == (200, "beast")
                    assert answer.headers["x-cortex-model"] == "Qwen/Qwen3-30B"
                    (row,) = (await http.get("/v1/models")).json()["data"]
                    assert (row["feasible_on"], row["aliases"]) == (["beast"], ["qwen"])
                    assert row["cost"] == {"input": 0.1, "output": 0.4}
                nursery.cancel_scope.cancel()
            assert beast.ordered("/models/load") == 1
            assert not benjy.ordered("/models/load") and not third.ordered("/models/load")
