"""Files that are no model: named for what they are, before the engine sees a byte of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cortex import demo
from cortex.config.neuron import NeuronConfig
from cortex.harness.base import Engine, LoadOrder, Progress
from cortex.harness.llamacpp import LlamaCppHarness
from tests.calls import CHAT, Json, fault_of, residents, text_of
from tests.demo_questions import QUESTIONS
from tests.fake_gguf import PAIRS, gguf
from tests.roles import Running, demo_neuron

GOOD = demo.GGUF.read_bytes()


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


class Watched(LlamaCppHarness):
    """Notes which files the engine was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> Engine:
        self.seen.append(order.model)
        return super().load(order, progress, ring)


FAULTS = {
    "empty": (b"", "is empty"),
    "garbage": (b"\x07\x13\x99" * 2000, "is not GGUF"),
    "page": (b"<!DOCTYPE html><html>", "HTML"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "pickle": (b"\x80\x02}q\0", "pickle"),
    "version": (gguf(version=9), "version 9"),
    "counts": (gguf(counts=(2**63, 4)), "tensors"),
    "head-cut": (GOOD[:20], "truncated"),
    "keys-cut": (GOOD[:2000], "more than the file has room for"),
    "half": (GOOD[: len(GOOD) // 2], "truncated"),
    "end-cut": (GOOD[:-100], "truncated"),
    "zeros": (b"\0" * 4096, "zeros"),
    "architecture": (
        gguf({key: said for key, said in PAIRS.items() if key != "general.architecture"}),
        "general.architecture",
    ),
    "template": (gguf({**PAIRS, "tokenizer.chat_template": "{% if %}"}), "chat template"),
    "bomb": (
        gguf({**PAIRS, "tokenizer.chat_template": "{% for a in range(99999999) %}{{ a }}{% endfor %}"}),
        "chat template",
    ),
}


def hello(model: str) -> Json:
    return {"model": model, "messages": list(QUESTIONS[0].messages), "temperature": 0}


async def refuses(role: Running, model: str, source: Path, *faults: str) -> None:
    """By name over every way in, whether ordered or asked for."""
    spec = {"id": model, "source": f"path:{source}"}
    for answer in (
        await role.http.post("/models/load", json={"spec": spec}),
        await role.http.post(CHAT, json=hello(model)),
        await role.http.post(CHAT, json={**hello(model), "stream": True}),
    ):
        if answer.status_code == 404:
            continue  # no file of that name lies in a root: only an order can mean it
        assert (answer.status_code, fault_of(answer)["code"]) == (422, "unfit_model"), answer.text
        for fault in faults:
            assert fault in fault_of(answer)["message"]
    assert await residents(role) == {}


async def test_a_file_that_is_no_model_is_refused_by_the_header_check(tmp_path: Path) -> None:
    """Row 73, each as a whole neuron meets it; a good file is served afterwards."""
    watched = Watched()
    for name, (data, _) in FAULTS.items():
        (tmp_path / f"{name}.gguf").write_bytes(data)
    (tmp_path / "folder.gguf").mkdir()
    config = NeuronConfig(model_roots=(tmp_path,))
    async with demo_neuron(config, harnesses={"llamacpp": watched}) as role:
        for name, (_, fault) in FAULTS.items():
            await refuses(role, name, tmp_path / f"{name}.gguf", fault, name)
        await refuses(role, "folder", tmp_path / "folder.gguf", "folder.gguf", "directory")
        await refuses(role, "missing", tmp_path / "missing.gguf", "missing.gguf", "No such file")
        assert watched.seen == []
        shutil.copy(demo.GGUF, tmp_path / "good.gguf")
        assert text_of(await role.http.post(CHAT, json=hello("good"))) == QUESTIONS[0].answer
        assert watched.seen == ["good"]


async def test_what_only_the_engine_refuses_is_a_failed_load_and_the_neuron_goes_on(tmp_path: Path) -> None:
    """Row 73: a sound header before nonsense."""
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    odd = {**PAIRS, "tokenizer.ggml.pre": "never-heard-of", "tokenizer.chat_template": template}
    (tmp_path / "odd.gguf").write_bytes(gguf(odd))
    shutil.copy(demo.GGUF, tmp_path / "good.gguf")
    async with demo_neuron(NeuronConfig(model_roots=(tmp_path,))) as role:
        answer = await role.http.post("/models/load", json={"spec": {"id": "odd"}})
        assert (answer.status_code, fault_of(answer)["code"]) == (502, "load_failed"), answer.text
        assert "odd.gguf" in fault_of(answer)["message"]
        assert await residents(role) == {}
        assert text_of(await role.http.post(CHAT, json=hello("good"))) == QUESTIONS[0].answer


async def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD[:-1])
    async with demo_neuron(NeuronConfig(model_roots=(tmp_path,))) as role:
        assert (await role.http.post(CHAT, json=hello("m"))).status_code == 422
        path.write_bytes(GOOD)
        assert text_of(await role.http.post(CHAT, json=hello("m"))) == QUESTIONS[0].answer
        await role.http.post("/models/unload", json={"id": "m"})
        path.write_bytes(GOOD[: len(GOOD) // 2])
        assert (await role.http.post(CHAT, json=hello("m"))).status_code == 422
