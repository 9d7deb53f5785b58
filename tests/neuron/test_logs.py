"""What a neuron writes into its log of requests: never what they say."""

import logging
import re
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Script
from tests.calls import CHAT, TEXT, hello, settings
from tests.roles import MIB, running_neuron, specs

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
    refusals = [line for line in caplog.messages if line.startswith("request.refused")]
    assert len([line for line in refusals if logged in line]) == 1, refusals
    code = logged.partition("code=")[2].partition(" ")[0]
    (done,) = [line for line in caplog.messages if line.startswith("request.done")]
    assert " outcome=caller key=- " in done and f" code={code} " in done
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


async def test_a_request_is_one_line_with_its_end_and_its_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cortex")
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="one two three")) as role:
        answer = await role.http.post(CHAT, json=hello(), headers={"x-cortex-key-name": "ann b=c"})
        assert answer.status_code == 200
        used = answer.json()["usage"]
    (line,) = [line for line in caplog.messages if line.startswith("request.")]
    assert line.startswith("request.done model=a outcome=ok key=ann b=c seconds=0.")
    assert f" prompt={used['prompt_tokens']} cached=0 completion={used['completion_tokens']} " in line
    assert " dialect=openai_chat code=- stop=stop queue_s=0." in line
    assert re.search(r" ttft_s=0\.\d+$", line)


async def test_who_is_sent_away_is_logged_with_whom_it_is_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cortex")
    big, config = Script(reply="hi", bytes=60 * MIB), settings()
    catalogue = specs(tmp_path, "a", "b")
    async with running_neuron(tmp_path, catalogue, big, memory=100 * MIB, config=config) as role:
        for model in ("a", "b"):
            assert (await role.http.post(CHAT, json=hello(model))).status_code == 200
    gone = [line for line in caplog.messages if line.startswith(("evict.", "unload."))]
    assert gone == ["evict.begun model=a place=cpu by=b", "unload.done model=a place=cpu"]
