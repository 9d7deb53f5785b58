"""The forms of thoughts and tool calls work on llama.cpp: markers are heard, forced calls hold."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cortex.ask import Sampling, Shape, Spelling
from cortex.demo import GGUF
from cortex.events import EngineEvent, Failed, Stopped, Tokens
from cortex.harness.base import Job, LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.llamacpp.engine import SCHEMAS_KEPT, LlamaCppEngine
from cortex.text.toolcalls import CallForm, beside, force
from tests.call_forms import TOOLS, read

GREEDY = Sampling(0.0, 1.0, 0, 0.0, None, 0.0, 0.0, 1.0)
PROMPT = "<|im_start|>user\nWhat is the weather in Oslo?<|im_end|>\n<|im_start|>assistant\n"
ORDER = LoadOrder("demo", GGUF, "cpu", 512, 1, options={"threads": 1, "batch": 32})
HARNESS = LlamaCppHarness()

pytestmark = pytest.mark.skipif(HARNESS.unavailable() is not None, reason=str(HARNESS.unavailable()))


class Asked:
    """An engine that is asked one job after another."""

    def __init__(self) -> None:
        self._bell = threading.Semaphore(0)
        self.engine: LlamaCppEngine = HARNESS.load(ORDER, lambda done, total: False, self._bell.release)

    def text(self, job: Job) -> str:
        heard = self.events(job)
        assert isinstance(heard[-1], Stopped), heard
        return b"".join(event.data for event in heard if isinstance(event, Tokens)).decode()

    def events(self, job: Job) -> list[EngineEvent]:
        self.engine.submit(job)
        heard: list[EngineEvent] = []
        while not heard or not isinstance(heard[-1], Stopped | Failed):
            assert self._bell.acquire(timeout=20)
            heard += [event for _, event in self.engine.turn()]
        return heard


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.engine.unload()


def test_a_special_token_has_its_text_where_it_is_asked_for(asked: Asked) -> None:
    """Several families' markers are such tokens: unheard, a call would be no call."""
    marker = "<|im_start|>"
    (token,) = asked.engine.tokenise(marker)
    job = Job(1, PROMPT, replace(GREEDY, logit_bias={token: 100.0}), max_tokens=2)
    assert asked.text(job) == ""
    assert asked.text(replace(job, visible=("<tool_call>", marker, "[no token]"))) == marker * 2


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"])
@pytest.mark.parametrize("name", [None, "weather", "now"])
def test_a_forced_call_is_held_by_the_engine(asked: Asked, form: CallForm, name: str | None) -> None:
    """Whatever the model would rather say, in forms that it never learnt, and with references."""
    tools = tuple(replace(tool, parameters=_small(tool.parameters)) for tool in TOOLS)
    forced = force(form, tools, name)
    said = asked.text(Job(1, PROMPT + forced.opening, GREEDY, max_tokens=250, shape=forced.shape))
    ((called, arguments),) = read(form, [forced.opening, said])
    assert called in ({"weather", "now"} if name is None else {name})
    assert set(json.loads(arguments)) == ({"unit", "point"} if called == "weather" else set())


ANSWER = Shape(
    "json_schema",
    {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False},
)


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"])
@pytest.mark.parametrize("wanted", ["an answer", "a call"])
def test_an_answer_or_a_call_is_held_by_the_engine(asked: Asked, form: CallForm, wanted: str) -> None:
    """Which of the two comes is the model's choice: here it is biased to one."""
    tools = tuple(replace(tool, parameters=_small(tool.parameters), strict=True) for tool in TOOLS)
    shape = beside(form, tools, ANSWER)
    begins = {"hermes": "<", "qwen_xml": "<", "llama": '{"name'}.get(form, "[")
    likely = asked.engine.tokenise('{"a' if wanted == "an answer" else begins)
    bias = dict.fromkeys(likely, 30.0)
    job = Job(1, PROMPT, replace(GREEDY, logit_bias=bias), max_tokens=120, shape=shape)
    said = asked.text(job)
    if wanted == "an answer":
        assert json.loads(said) == {"a": 1}
        return
    called, arguments = read(form, [said])[0]
    assert called in {"weather", "now"}
    assert isinstance(json.loads(arguments), dict)


def test_a_marker_that_is_a_token_comes_as_that_token_beside_a_form(asked: Asked) -> None:
    """A grammar of letters alone would forbid the very token that the model was taught."""
    marker = "<|im_start|>"
    (token,) = asked.engine.tokenise(marker)
    shape = replace(ANSWER, calls=(Spelling((marker,), {"const": 1}),))
    biased = replace(GREEDY, logit_bias={token: 50.0})
    said = asked.text(Job(1, PROMPT, biased, max_tokens=2, shape=shape, visible=(marker,)))
    assert said == f"{marker}1"


def test_calls_that_the_engine_cannot_hold_to_are_refused_by_the_caller_s_field(asked: Asked) -> None:
    """Otherwise in silence: the engine leaves a grammar out that it cannot compile."""
    shape = replace(ANSWER, param="text.format", calls=(Spelling(("<",), {"not": {"type": "string"}}),))
    (end,) = asked.events(Job(1, PROMPT, GREEDY, shape=shape))[-1:]
    assert isinstance(end, Failed)
    assert end.error.param == "text.format"
    assert "'text.format'" in end.error.message


def test_an_answer_may_begin_with_a_token_that_holds_the_letter_it_is_tried_with(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vocabularies have tokens like '"z': the form is held all the same."""

    def complete(body: bytes, hear: Callable[[bytes], bool]) -> None:
        text = '"z' if json.loads(body)["max_tokens"] == 1 else '"zoo"'
        choice = {"text": text, "finish_reason": "stop"}
        hear(json.dumps({"choices": [choice], "__verbose": {"tokens_predicted": 1}}).encode())

    monkeypatch.setattr(asked.engine, "_complete", complete)
    shape = Shape("json_schema", {"enum": ["zoo"]})
    assert asked.text(Job(1, PROMPT, GREEDY, max_tokens=9, shape=shape)) == '"zoo"'


class Raced(dict[bytes, bool]):
    """What is to be forgotten was forgotten by another call's thread a moment ago."""

    def pop(self, key: bytes, *otherwise: bool | None) -> bool | None:
        super().pop(key)
        return super().pop(key, *otherwise)


def test_two_calls_that_forget_one_form_at_once_break_nothing(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Raced((index.to_bytes(2), True) for index in range(SCHEMAS_KEPT))
    monkeypatch.setattr(asked.engine, "_schemas", kept)
    assert json.loads(asked.text(Job(1, PROMPT, GREEDY, max_tokens=20, shape=ANSWER))) == {"a": 1}
    assert len(kept) == SCHEMAS_KEPT


def test_a_forced_form_leaves_no_room_for_blanks(asked: Asked) -> None:
    """They are legal JSON, and a small model would fill its answer with them."""
    shape = Shape(
        "json_schema", {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": [1, 2]}}}
    )
    wanted = replace(shape, schema={**shape.schema, "required": ["a", "b"], "additionalProperties": False})
    said = asked.text(Job(1, PROMPT, GREEDY, max_tokens=100, shape=wanted))
    assert said == '{"a": 1, "b": [1, 2]}'


def _small(parameters: dict[str, object]) -> dict[str, object]:
    """A schema with a reference, of which a small model finds the end."""
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    point = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"unit": {"enum": ["c", "f"]}, "point": {"$ref": "#/$defs/Point"}},
        "required": ["unit", "point"],
        "additionalProperties": False,
        "$defs": {"Point": point},
    }
