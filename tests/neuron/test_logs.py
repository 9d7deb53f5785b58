"""What a neuron writes into its log of requests: never what they say."""

import logging
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Script
from tests.calls import CHAT, TEXT, hello
from tests.roles import running_neuron, specs

SECRET = "swordfish"
TEMPLATE = "{{ raise_exception('not this: ' ~ messages[0].content) }}"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.mark.parametrize(
    ("path", "body", "logged"),
    [
        (CHAT, hello(temperature=SECRET), "code=invalid_request param=temperature"),
        (CHAT, hello(chat_template_kwargs={SECRET: True}), "code=invalid_request"),
        (CHAT, hello("a", messages=[{"role": "user", "content": SECRET}]), "model=a code=invalid_request"),
        (CHAT, hello(SECRET), "code=model_not_found param=model"),
        (TEXT, {"model": "a", "prompt": "x", "suffix": SECRET}, "code=unsupported_parameter param=suffix"),
        (TEXT, f'{{"model": "a", "prompt": {SECRET}}}', "code=invalid_request"),
    ],
)
async def test_a_refusal_is_logged_by_code_and_field_and_never_quotes_the_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, body: object, logged: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="cortex")
    scripts = {"a": Script(reply="hi", template=TEMPLATE)}
    async with running_neuron(tmp_path, specs(tmp_path, "a"), scripts) as role:
        sent = {"content": body} if isinstance(body, str) else {"json": body}
        answer = await role.http.post(path, **sent)
        assert 400 <= answer.status_code < 500
    refusals = [line for line in caplog.messages if line.startswith("request.")]
    assert len([line for line in refusals if logged in line]) == 1, refusals
    assert SECRET not in caplog.text


async def test_what_an_engine_did_is_logged_with_its_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripts = {"a": Script(reply="one two three", fail_after=1)}
    async with running_neuron(tmp_path, specs(tmp_path, "a"), scripts) as role:
        assert (await role.http.post(CHAT, json=hello())).status_code == 502
    (line,) = [line for line in caplog.messages if line.startswith("request.failed")]
    assert "code=engine_failed cause=" in line
    assert "scripted failure" in line
