"""Refuses by name what an engine cannot do, before it is asked to.

A resolved job has a number for every field; one that changes nothing asks for nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Final, get_args

from cortex.errors import Unsupported
from cortex.harness.base import Feature, Job

_NEUTRAL: Final[Mapping[Feature, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
_FIELDS: Final[Mapping[Feature, str]] = {
    "text": "prompt",
    "ids": "prompt",
}
_WORDS: Final[Mapping[Feature, str]] = {
    "text": "with text (it takes token ids)",
    "ids": "with token ids (it takes text)",
    "json_object": "json_object",
    "json_schema": "json_schema",
}


def ensure(job: Job, can: frozenset[Feature]) -> None:
    """Raises Unsupported for the first thing that `job` wants and is not among `can`."""
    for feature in _wanted(job):
        if feature not in can:
            field = _FIELDS.get(feature, feature)
            if job.shape is not None and feature == job.shape.kind:
                field = job.shape.param
            what = " ".join(filter(None, (f"'{field}'", _WORDS.get(feature))))
            raise Unsupported(
                f"{what} is not supported by this model's engine: leave it out, or use another model",
                param=field,
            )


def _wanted(job: Job) -> Iterator[Feature]:
    sampling = job.sampling
    for feature in get_args(Feature):
        wanted = getattr(sampling, feature, None)
        if wanted is not None and wanted != _NEUTRAL.get(feature) and wanted != {}:
            yield feature
    if job.logprobs is not None:
        yield "logprobs"
    if job.shape is not None:
        yield job.shape.kind
    yield "text" if isinstance(job.prompt, str) else "ids"
