"""A gap between two texts is filled by models whose vocabulary has the markers, and by no others."""

import re
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from cortex.ask import Ask
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.demo import GGUF, MODEL_ID
from cortex.errors import Unsupported
from cortex.events import Stopped, Text, Tokens
from cortex.neuron.infilling import infill_of
from cortex.neuron.prompts import prepare
from cortex.text.infill import FAMILIES
from tests.calls import TEXT, Json, fault_of, figures
from tests.fake_engine import fake_engine
from tests.neuron.test_prompts import voice
from tests.neuron.test_upstreams import bridge
from tests.roles import demo_neuron


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def taught(path: Path) -> Path:
    """The bundled model with StarCoder's markers, whose lengths make the file's what it was."""
    data = GGUF.read_bytes()
    for old, new in (
        ("<|im_start|>", "<fim_prefix>"),
        ("</tool_call>", "<fim_suffix>"),
        ("<|endoftext|>", "<fim_middle>"),
        ("<tool_call>", "<tool_call+>"),
    ):
        known, wanted = (struct.pack("<Q", len(word)) + word.encode() for word in (old, new))
        assert data.count(known) == 1
        data = data.replace(known, wanted)
    path.write_bytes(data)
    return path


async def test_the_gap_is_told_by_the_markers_of_the_models_own_vocabulary(tmp_path: Path) -> None:
    """To the engine it is the prompt that somebody would write by hand who knew them."""
    spec = ModelSpec("m", source=f"path:{taught(tmp_path / 'm.gguf')}")
    config = NeuronConfig(model_roots=(tmp_path,))
    async with demo_neuron(config, Catalogue({"m": spec})) as role:
        body: Json = {"model": "m", "temperature": 0, "max_tokens": 6}
        filled = (await role.http.post(TEXT, json={**body, "prompt": "one ", "suffix": " three"})).json()
        by_hand = {**body, "prompt": "<fim_prefix>one <fim_suffix> three<fim_middle>"}
        wanted = (await role.http.post(TEXT, json=by_hand)).json()
        assert filled["usage"]["prompt_tokens"] == wanted["usage"]["prompt_tokens"]
        assert filled["choices"][0]["text"] == wanted["choices"][0]["text"].partition("<")[0]
        both = {**body, "prompt": ["one ", "two "], "suffix": " three", "echo": True}
        told = (await role.http.post(TEXT, json=both)).json()
        assert told["choices"][0]["text"] == "one " + filled["choices"][0]["text"]
        assert told["choices"][1]["text"].startswith("two ")
        assert await figures(role) == {"m": (0, 0)}


async def test_a_model_that_was_not_taught_to_is_refused_by_name() -> None:
    async with demo_neuron() as role:
        body = {"model": MODEL_ID, "prompt": "one ", "suffix": " three"}
        for stream in (False, True):
            refused = await role.http.post(TEXT, json={**body, "stream": stream})
            assert (refused.status_code, fault_of(refused)["param"]) == (400, "suffix")
            assert fault_of(refused)["code"] == "unsupported_parameter"
        assert (await role.http.post(TEXT, json={**body, "suffix": ""})).status_code == 200
        assert await figures(role) == {MODEL_ID: (0, 0)}


async def test_another_engine_does_not_get_what_it_may_ignore() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        body = {"model": "m", "prompt": "one ", "suffix": " three"}
        refused = await role.http.post(TEXT, json=body)
        assert (refused.status_code, fault_of(refused)["param"]) == (400, "suffix")
        assert engine.requests == []


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_family_is_known_by_markers_that_are_one_token_each(family) -> None:
    asked, ahead = Ask("m", prompt="a", suffix="b"), FAMILIES.index(family)

    def vocabulary(*words: str) -> Callable[[str], Awaitable[tuple[int, ...]]]:
        async def tokenise(text: str) -> tuple[int, ...]:
            questions.append(text)
            return tuple(map(len, re.findall("|".join([*map(re.escape, words), "."]), text)))

        return tokenise

    questions: list[str] = []
    assert await infill_of(asked, vocabulary(*family.markers)) == family
    # A device at work answers between two of its turns, and whoever completes code is in a hurry.
    assert len(questions) == ahead + 1
    for lacking in family.markers:
        with pytest.raises(Unsupported) as refused:
            await infill_of(asked, vocabulary(*({*family.markers} - {lacking})))
        assert refused.value.param == "suffix"
    assert await infill_of(Ask("m", prompt="a"), vocabulary()) is None


async def test_the_answer_ends_where_the_model_goes_on_to_something_else() -> None:
    """Engines hide special tokens and not all of them end an answer: another file would follow."""
    family = FAMILIES[0]
    ask = Ask("m", prompt="a", suffix="b", stop=("\n\n",))
    (job,) = prepare(ask, voice(None), "-", family).jobs
    assert job.prompt == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    assert set(family.stops) <= set(job.visible)
    for end in (*family.stops, "\n\n"):
        (reader,) = prepare(
            Ask("m", prompt="a", suffix="b", stop=("\n\n",)), voice(None), "-", family
        ).readers
        events = [event for piece in ("x ", *end, "y") for event in reader.feed(Tokens(piece.encode(), 1))]
        assert "".join(event.text for event in events if isinstance(event, Text)) == "x "
        assert isinstance(events[-1], Stopped) and events[-1].reason == "stop"
