"""Every sampling field of a request, by its effect on what the bundled model says.

A field that is accepted and ignored is the worst kind of fault, since nothing shows it: each
is sent with a value that must change a known answer, or must keep a wild one from changing.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest
import trio

from cortex.demo import MODEL_ID
from tests.calls import CHAT, Json, fault_of
from tests.roles import Running, demo_neuron

SCHEMAS: dict[str, Json] = json.loads((Path(__file__).parents[1] / "golden" / "schemas.json").read_text())
QUESTION = "Are you a demo?"
KNOWN = "Yes, I am only a demo. I show that cortex works, and I am no use for anything else."
HOT = {"temperature": 2.0, "seed": 11}


@pytest.fixture
async def demo() -> AsyncIterator[Running]:
    with trio.fail_after(60):
        async with demo_neuron() as role:
            yield role


async def said(role: Running, **fields: object) -> str:
    body = {
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 40,
        "chat_template_kwargs": {"enable_thinking": False},
        **fields,
    }
    answer = await role.http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def tokens(role: Running, text: str) -> list[int]:
    answer = await role.http.post("/tokenize", json={"model": MODEL_ID, "prompt": text})
    ids: list[int] = answer.json()["tokens"]
    return ids


async def test_heat_changes_what_is_said_and_a_seed_repeats_it(demo: Running) -> None:
    assert await said(demo, temperature=0) == KNOWN
    wild = await said(demo, **HOT)
    assert wild != KNOWN
    assert await said(demo, **HOT) == wild
    assert await said(demo, temperature=2.0, seed=12) != wild


@pytest.mark.parametrize(
    "field", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=lambda each: next(iter(each))
)
async def test_each_cut_leaves_only_the_likeliest_of_a_hot_choice(demo: Running, field: Json) -> None:
    assert await said(demo, **HOT) != KNOWN
    assert await said(demo, **HOT, **field) == KNOWN


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
async def test_each_penalty_keeps_words_from_coming_again(demo: Running, field: str) -> None:
    """At its most it is too weak to sway a cool model that was taught the answer: a hot one it sways."""
    wild = await said(demo, **HOT, max_tokens=60)
    assert await said(demo, **HOT, max_tokens=60, **{field: 0}) == wild
    assert await said(demo, **HOT, max_tokens=60, **{field: 2.0}) != wild


async def test_a_repetition_penalty_keeps_words_from_coming_again(demo: Running) -> None:
    assert await said(demo, temperature=0, repetition_penalty=1.0) == KNOWN
    assert await said(demo, temperature=0, repetition_penalty=8.0) != KNOWN


async def test_a_bias_forces_a_token_and_bans_one(demo: Running) -> None:
    (forced,) = await tokens(demo, "x")
    assert await said(demo, temperature=0, max_tokens=4, logit_bias={str(forced): 100}) == "xxxx"
    first, *_ = await tokens(demo, KNOWN)
    assert not (await said(demo, temperature=0, logit_bias={str(first): -100})).startswith(KNOWN[:2])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_each_name_of_the_token_limit_ends_the_answer(demo: Running, name: str) -> None:
    body = {"model": MODEL_ID, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, name: 3}
    answer = (await demo.http.post(CHAT, json=body)).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (3, "length")


async def test_a_stop_string_across_token_borders_ends_the_answer_before_it(demo: Running) -> None:
    """However the tokens are cut: every string of three letters of the answer stops it."""
    for at in range(len(KNOWN) - 3):
        stop = KNOWN[at : at + 3]
        assert await said(demo, temperature=0, stop=[stop]) == KNOWN[: KNOWN.index(stop)], stop


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
async def test_a_schema_is_held_to_the_letter(demo: Running, name: str) -> None:
    """Whatever the model would rather say. One that runs into its limit is no answer yet, and says so:
    a hot one sooner or later ends."""
    schema = SCHEMAS[name]
    shape = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    body = {
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": "Give me a JSON object."}],
        "response_format": shape,
        "max_tokens": 150,
    }
    ended = 0
    for heat in ({"temperature": 0}, *({"temperature": 2.0, "seed": seed} for seed in range(5))):
        answer = await demo.http.post(CHAT, json={**body, **heat})
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        if choice["finish_reason"] == "stop":
            ended += 1
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    assert ended


async def test_a_field_that_is_out_of_range_is_refused_by_its_name(demo: Running) -> None:
    for field, value in (("temperature", -1), ("top_p", 1.5), ("min_p", -0.1), ("top_k", -2), ("n", 0)):
        body = {"model": MODEL_ID, "messages": [{"role": "user", "content": "x"}], field: value}
        answer = await demo.http.post(CHAT, json=body)
        assert (answer.status_code, fault_of(answer)["param"]) == (400, field)
