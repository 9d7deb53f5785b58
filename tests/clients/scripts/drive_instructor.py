"""instructor, in its modes: forced calls, JSON by schema, JSON by word."""

import instructor
from openai import OpenAI
from pydantic import BaseModel
from scenarios import COLD, KEY, KEYED_V1, LONG, MODEL, NOBODY, SMALL, V1, tell


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


def partial():
    client = instructor.from_openai(OpenAI(base_url=V1, api_key="none"))
    parts = client.chat.completions.create_partial(
        model=MODEL, response_model=Weather, messages=[{"role": "user", "content": "Hello"}], max_retries=0
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
    cold=lambda: ask(COLD).model_dump(),
)
