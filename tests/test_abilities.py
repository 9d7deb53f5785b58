"""What an engine cannot do is refused by the field's name, and what changes nothing is not asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.ask import Sampling, Shape
from cortex.errors import Unsupported
from cortex.harness.abilities import ensure
from cortex.harness.base import EVERYTHING, Feature, Job
from cortex.harness.scripted import Script
from tests.calls import CHAT, fault_of, hello, text_of
from tests.roles import running_neuron, specs

NEUTRAL = Sampling(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
PLAIN = Job(0, "x", NEUTRAL)


def sampled(**said: object) -> Job:
    return replace(PLAIN, sampling=replace(NEUTRAL, **said))


WANTING: dict[Feature, tuple[Job, str]] = {
    "temperature": (sampled(temperature=0.0), "temperature"),
    "top_p": (sampled(top_p=0.9), "top_p"),
    "top_k": (sampled(top_k=1), "top_k"),
    "min_p": (sampled(min_p=0.1), "min_p"),
    "seed": (sampled(seed=0), "seed"),
    "presence_penalty": (sampled(presence_penalty=-1.0), "presence_penalty"),
    "frequency_penalty": (sampled(frequency_penalty=1.0), "frequency_penalty"),
    "repetition_penalty": (sampled(repetition_penalty=1.1), "repetition_penalty"),
    "logit_bias": (sampled(logit_bias={1: 2.0}), "logit_bias"),
    "logprobs": (replace(PLAIN, logprobs=0), "logprobs"),
    "json_object": (replace(PLAIN, shape=Shape("json_object")), "response_format"),
    "json_schema": (replace(PLAIN, shape=Shape("json_schema", {})), "response_format"),
    "text": (PLAIN, "prompt"),
    "ids": (replace(PLAIN, prompt=(1,)), "prompt"),
}


def test_every_ability_is_asked_for_by_something() -> None:
    assert set(WANTING) == EVERYTHING


@pytest.mark.parametrize("feature", sorted(WANTING))
def test_what_is_lacking_is_named_and_what_is_there_passes(feature: Feature) -> None:
    job, field = WANTING[feature]
    with pytest.raises(Unsupported, match=f"'{field}'") as refused:
        ensure(job, EVERYTHING - {feature})
    assert refused.value.param == field
    ensure(job, EVERYTHING)


def test_what_changes_nothing_is_not_asked_for() -> None:
    only = frozenset[Feature]({"text"})
    ensure(PLAIN, only)
    ensure(sampled(logit_bias={}), only)
    with pytest.raises(Unsupported, match="'logit_bias'"):
        ensure(sampled(logit_bias={1: 0.0}), only)


async def test_a_client_is_told_by_status_and_name(tmp_path: Path) -> None:
    script = Script(reply="hi", can=EVERYTHING - {"logprobs", "seed"})
    with trio.fail_after(30):
        async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
            assert text_of(await role.http.post(CHAT, json=hello())) == "hi"
            for field, more in (("logprobs", {"logprobs": True}), ("seed", {"seed": 7, "stream": True})):
                refused = await role.http.post(CHAT, json=hello(**more))
                assert refused.status_code == 400
                assert (fault_of(refused)["code"], fault_of(refused)["param"]) == (
                    "unsupported_parameter",
                    field,
                )
            assert text_of(await role.http.post(CHAT, json=hello())) == "hi"
