"""`cortex models pull` and `cortex up hf:...`, as processes of their own, with a hub on loopback."""

import json
import os
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from cortex import demo
from tests.fake_hub import COMMIT, FakeHub, Repo, fake_hub
from tests.fake_safetensors import CONFIG, shard
from tests.fake_terminal import lines_until, running

pytestmark = pytest.mark.slow

WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


def cortex(hub: FakeHub, tmp_path: Path, *words: str) -> AbstractAsyncContextManager[trio.Process]:
    """A cortex process whose environment names the hub."""
    cache, home = str(tmp_path / "cache"), str(tmp_path)
    return running(
        "-m", "cortex", *words, HF_ENDPOINT=hub.url, HF_HUB_CACHE=cache, XDG_CONFIG_HOME=home, NO_COLOR="1"
    )


async def said_by(process: trio.Process) -> tuple[int, str, str]:
    """Exit code, and all that was said on both channels."""
    said = {"out": b"", "err": b""}

    async def read(name: str, stream: trio.abc.ReceiveStream) -> None:
        async for piece in stream:
            said[name] += piece

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, "out", process.stdout)
        nursery.start_soon(read, "err", process.stderr)
    return await process.wait(), said["out"].decode(), said["err"].decode()


async def pulled(hub: FakeHub, tmp_path: Path, *words: str) -> tuple[int, str, str]:
    async with cortex(hub, tmp_path, "models", "pull", *words) as process:
        return await said_by(process)


async def test_pull_says_how_far_it_is_and_where_the_model_lies(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m-Q4_0.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS})) as hub:
        code, out, err = await pulled(hub, tmp_path, "hf:org/m:Q4_0")
    path = tmp_path / "cache" / "models--org--m" / "snapshots" / COMMIT / "m-Q4_0.gguf"
    assert (code, out) == (0, f"hf:org/m:Q4_0 is in the cache: {path}\n")
    assert path.read_bytes() == WEIGHTS
    # No bar where nobody looks: plain lines.
    assert "download hf:org/m:Q4_0: 100% of 500KiB\nverify" in err
    assert "\x1b" not in err and "\r" not in err


async def test_pull_finds_a_model_of_models_toml_and_the_cache_of_neuron_toml(tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text(
        '[neuron]\nmodels_config = "models.toml"\n[hub]\ncache_dir = "mine"\n'
    )
    (tmp_path / "models.toml").write_text(
        '[[models]]\nid = "small"\nsource = "hf:org/m"\nquant = "Q8_0"\naliases = ["s"]\n'
        '[[models]]\nid = "file"\nsource = "path:/x.gguf"\n'
    )
    config = ("--config", str(tmp_path / "neuron.toml"))
    async with fake_hub(m=Repo({"m-Q4_0.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS})) as hub:
        code, out, _ = await pulled(hub, tmp_path, "s", *config)
        assert (code, str(tmp_path / "mine") in out, "m-Q8_0.gguf" in out) == (0, True, True)
        code, _, err = await pulled(hub, tmp_path, "file", *config)
        assert (code, "is not on a hub" in err) == (2, True)
        code, _, err = await pulled(hub, tmp_path, "smal", *config)
        assert (code, "small" in err) == (1, True)


async def test_a_name_that_no_catalogue_was_read_for_is_told_as_what_it_is_taken_for(tmp_path: Path) -> None:
    """An entry of it would say which file of the repo is meant."""
    async with fake_hub(m=Repo({"m-Q4_0.gguf": WEIGHTS})) as hub:
        code, out, err = await pulled(hub, tmp_path, "org/m")
    assert code == 0 and "m-Q4_0.gguf" in out
    assert err.startswith("no models.toml was read: org/m is taken for a hub's, as hf:org/m\n")


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("hf:org/m", 1, "Q4_0 (500KiB)"),
        ("hf:org/none", 1, "spelling"),
        ("hf:org", 2, "write hf:org/name"),
        ("hf:../m", 2, "write hf:org/name"),
        ("small", 2, "no models.toml was read that could name it: give the host's own neuron.toml"),
    ],
)
async def test_a_pull_that_cannot_be_is_told_in_one_line(
    tmp_path: Path, model: str, code: int, words: str
) -> None:
    async with fake_hub(m=Repo({"m-Q4_0.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS})) as hub:
        left, out, err = await pulled(hub, tmp_path, model)
    assert (left, out) == (code, "")
    assert words in err and err.count("\n") == 1


async def test_ctrl_c_keeps_what_came_and_the_same_command_goes_on(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        hub.halts[".gguf"] = (300_000, trio.Event())
        async with cortex(hub, tmp_path, "models", "pull", "hf:org/m") as process:
            await hub.halted.wait()
            await lines_until(process.stderr, b"download hf:org/m")
            with trio.fail_after(2):
                process.send_signal(signal.SIGINT)
                code, _, err = await said_by(process)
        assert code == 130
        assert "goes on from there" in err
        (partial,) = (tmp_path / "cache").rglob("*.incomplete")
        kept = partial.stat().st_size
        hub.halts.clear()
        assert (await pulled(hub, tmp_path, "hf:org/m"))[0] == 0
        assert hub.asked(".gguf", "cdn")[-1].range == (f"bytes={kept}-" if kept else "")


async def test_a_second_signal_ends_a_pull_that_hangs(tmp_path: Path) -> None:
    os.mkfifo(login := tmp_path / "token")
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        more = {"HF_TOKEN_PATH": str(login), "XDG_CONFIG_HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
        async with running("-m", "cortex", "models", "pull", "hf:org/m", **more) as process:
            # Opened for writing when it is opened for reading; and never written to.
            line = await trio.to_thread.run_sync(lambda: os.open(login, os.O_WRONLY), abandon_on_cancel=True)
            try:
                process.send_signal(signal.SIGINT)
                with trio.move_on_after(0.5):
                    await process.wait()
                assert process.returncode is None
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(5):
                    assert await process.wait() == 128 + signal.SIGTERM
            finally:
                os.close(line)


async def test_every_tenth_is_said_once_however_many_files_there_are(tmp_path: Path) -> None:
    files = {f"{number}.json": b"{%d}" % number for number in range(9)}
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS, **files})) as hub:
        _, _, err = await pulled(hub, tmp_path, "hf:org/m")
    lines = err.splitlines()
    assert len(lines) == len(set(lines)) and lines[-1].startswith("verify hf:org/m: 100%")


async def test_up_downloads_no_safetensors_where_nothing_loads_them(tmp_path: Path) -> None:
    files = {"model.safetensors": shard(), "config.json": b"{}"}
    async with fake_hub(m=Repo(files)) as hub:
        async with cortex(hub, tmp_path, "up", "org/m", "--port", "0") as process:
            code, out, err = await said_by(process)
    assert (code, out) == (1, "")
    assert "holds safetensors, and GGUF is what can be loaded here" in err
    assert "exllamav2, which loads these, cannot run here: " in err
    assert not [seen for seen in hub.requests if "/resolve/" in seen.path]


async def test_a_pull_prefers_what_a_neuron_would_load(tmp_path: Path) -> None:
    """By the repo's name; where it holds only the other format, that is brought."""
    both = {"model.safetensors": shard(), "config.json": json.dumps(CONFIG).encode(), "m.gguf": WEIGHTS}
    async with fake_hub(m=Repo(both), m_gguf=Repo(both), other=Repo({"m.gguf": WEIGHTS})) as hub:
        for repo, path in (("m", f"{COMMIT}\n"), ("m_gguf", "m.gguf\n"), ("other", "m.gguf\n")):
            code, out, err = await pulled(hub, tmp_path, f"hf:org/{repo}")
            assert (code, out[-len(path) :]) == (0, path), err


async def test_up_serves_a_model_of_a_hub(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m-Q8_0.gguf": demo.GGUF.read_bytes()})) as hub:
        for model in ("org/m", "hf:org/m:Q8_0"):
            async with cortex(hub, tmp_path, "up", model, "--port", "0") as process:
                printed = (await lines_until(process.stdout, b"Ctrl-C stops.\n")).decode()
                assert "serves org/m\n" in printed
                line = next(line for line in printed.splitlines() if line.startswith("  curl "))
                answer = await trio.run_process(["bash", "-c", f"{line} -s"], capture_stdout=True)
                assert b'"content":"Hello' in answer.stdout
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
        # The second time it was in the cache.
        assert len(hub.asked(".gguf", "cdn")) == len(hub.asked("/revision/main")) == 1
