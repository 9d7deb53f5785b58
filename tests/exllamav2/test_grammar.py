"""A schema is held to the letter through the real generator, by a model that never saw any JSON."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cortex.ask import Json, Shape
from cortex.errors import Unsupported
from cortex.events import Failed, Stopped, Tokens
from cortex.harness.base import Job
from tests.exllamav2.emulation import opt_in

opt_in()

from tests.exllamav2.test_engine import GREEDY, SHORT, SLOTS, Bench, Load, folder, load  # noqa: E402, F401 - fixtures

SCHEMAS: dict[str, dict[str, Json]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "schemas.json").read_text()
)
HOT = replace(GREEDY, temperature=2.0)


def answers(bench: Bench, jobs: list[Job]) -> list[tuple[bytes, str]]:
    """What each said and why it ended, all at once as far as there is room."""
    heard: list[Any] = []
    for at in range(0, len(jobs), SLOTS):
        some = jobs[at : at + SLOTS]
        for job in some:
            bench.engine.submit(job)
        heard += bench.until(*(job.id for job in some))

    def answer(job: Job) -> tuple[bytes, str]:
        events = [event for number, event in heard if number == job.id]
        assert isinstance(events[-1], Stopped), events
        return b"".join(each.data for each in events if isinstance(each, Tokens)), events[-1].reason

    return [answer(job) for job in jobs]


@pytest.mark.slow
@pytest.mark.parametrize("speculation", [None, "ngram"])
def test_every_schema_is_held_to_the_letter(load: Load, speculation: str | None) -> None:  # noqa: F811
    bench = load(options={} if speculation is None else {"speculation": speculation})
    for name, schema in SCHEMAS.items():
        shape = Shape("json_schema", schema)
        asked = [GREEDY, *(replace(HOT, seed=seed, top_p=0.95) for seed in range(7))]
        jobs = [Job(at, SHORT, said, max_tokens=80, shape=shape) for at, said in enumerate(asked)]
        said = answers(bench, jobs)
        ended = [data for data, reason in said if reason == "stop"]
        assert ended, name
        for data in ended:
            jsonschema.validate(json.loads(data), schema)


def test_an_answer_with_a_shape_ends_by_itself_and_its_end_is_no_text(load: Load) -> None:  # noqa: F811
    bench = load()
    ((data, reason),) = answers(bench, [Job(1, SHORT, GREEDY, shape=Shape("json_schema", {"const": "x"}))])
    assert (data, reason) == (b'"x"', "stop")


def test_a_shape_stands_above_any_bias(load: Load) -> None:  # noqa: F811
    bench = load()
    (stray,) = bench.engine.tokenise("z")
    ended = [token for token in bench.engine._vocabulary.eos]
    bias = {stray: 100.0, **dict.fromkeys(ended, 100.0)}
    shape = Shape("json_schema", {"const": "x"})
    ((data, _),) = answers(bench, [Job(1, SHORT, replace(GREEDY, logit_bias=bias), shape=shape)])
    assert data == b'"x"'


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"not": {}}, {"$ref": "#/nowhere"}])
def test_a_schema_that_cannot_be_held_fails_its_own_job_before_it_starts(
    load: Load,  # noqa: F811
    schema: Json,
) -> None:
    bench = load()
    alone, _ = bench.answer(Job(9, SHORT, GREEDY, max_tokens=6))
    bench.engine.submit(Job(1, SHORT, GREEDY, shape=Shape("json_schema", schema)))
    bench.engine.submit(Job(2, SHORT, GREEDY, max_tokens=6))
    said = bench.until(1, 2)
    (only,) = [event for number, event in said if number == 1]
    assert isinstance(only, Failed)
    assert isinstance(only.error, Unsupported)
    assert only.error.param == "response_format"
    assert b"".join(each.data for number, each in said if number == 2 and isinstance(each, Tokens)) == alone
