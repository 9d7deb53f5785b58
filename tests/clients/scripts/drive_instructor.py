"""instructor, in its modes: forced calls, JSON by schema, JSON by word."""

import instructor
from openai import OpenAI
from pydantic import BaseModel
from scenarios import (
    COLD,
    CROWDED_V1,
    DOOMED,
    FULL,
    KEY,
    KEYED_V1,
    LONG,
    MODEL,
    NOBODY,
    SLOW,
    SMALL,
    SPENT,
    V1,
    tell,
)


class Weather(BaseModel):
    city: str
    degrees: int


def ask(model=MODEL, base=V1, key="none", mode=instructor.Mode.TOOLS, text="Hello", **more):
    client = instructor.from_openai(OpenAI(base_url=base, api_key=key), mode=mode)
    make = client.chat.completions.create
    return make(
        model=model,
        response_model=Weather,
        messages=[{"role": "user", "content": text}],
        max_retries=0,
        **more,
    )


def partial(model=MODEL):
    client = instructor.from_openai(OpenAI(base_url=V1, api_key="none"))
    parts = client.chat.completions.create_partial(
        model=model, response_model=Weather, messages=[{"role": "user", "content": "Hello"}], max_retries=0
    )
    return list(parts)[-1].model_dump()


tell(
    tools=lambda: ask().model_dump(),
    tools_strict=lambda: ask(mode=instructor.Mode.TOOLS_STRICT).model_dump(),
    json_schema=lambda: ask(mode=instructor.Mode.JSON_SCHEMA).model_dump(),
    stream=partial,
    keyed=lambda: ask(base=KEYED_V1, key=KEY).model_dump(),
    unauthorized=lambda: ask(base=KEYED_V1, key="wrong"),
    unknown=lambda: ask(NOBODY),
    long=lambda: ask(SMALL, text=LONG),
    slow=lambda: [ask(base=KEYED_V1, key=SLOW).model_dump() for _ in range(2)],
    spent=lambda: [ask(base=KEYED_V1, key=SPENT).model_dump() for _ in range(2)],
    full=lambda: ask(FULL, base=CROWDED_V1).model_dump(),
    death=lambda: partial(DOOMED),
    cold=lambda: ask(COLD).model_dump(),
)
