"""What a neuron's metrics say after known traffic, in our own names and in those of vLLM."""

from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, calling, hello, settings, text_of, until
from tests.figures import Page
from tests.roles import MIB, Running, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def page_of(role: Running) -> Page:
    return Page((await role.http.get(role.metrics_url)).text)


def vllm(page: Page, name: str, **labels: str) -> float:
    """The sum of what is called so in vLLM's names."""
    found = [
        each.value
        for each in page.samples
        if each.name == f"vllm:{name}" and {"model_name": "a", **labels}.items() <= each.labels.items()
    ]
    assert found, name
    return sum(found)


async def test_requests_are_told_in_vllms_names_as_in_our_own(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), config=settings()) as role:
        for more in ({}, {"max_tokens": 1}, {"stream": True}):
            assert (await role.http.post(CHAT, json=hello(**more))).status_code == 200
        page = await page_of(role)
        assert vllm(page, "request_success_total", finished_reason="stop") == 2
        assert vllm(page, "request_success_total", finished_reason="length") == 1
        assert vllm(page, "prompt_tokens_total") == page("prompt_tokens_total", model="a") > 0
        assert vllm(page, "generation_tokens_total") == page("completion_tokens_total", model="a") > 3
        assert vllm(page, "time_to_first_token_seconds_count") == 3
        ours = page("time_to_first_token_seconds_sum", model="a")
        assert vllm(page, "time_to_first_token_seconds_sum") == pytest.approx(ours)
        assert vllm(page, "e2e_request_latency_seconds_count") == 3
        assert page("requests_total", model="a", neuron="n1", outcome="ok") == 3
        assert page("cold_wait_seconds_count", model="a") == 1


async def test_what_is_under_way_and_waits_is_told_while_it_does(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cortex.neuron.service.TELL_S", 0.02)
    gate = Gate(1)
    script = Script(endless=True, hold=gate, kv_tokens=1000)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings(slots=1)) as role:
        async with calling(role) as one, calling(role) as two:
            await one.ask(CHAT, hello(stream=True))
            await two.ask(CHAT, hello())

            async def told() -> bool:
                page = await page_of(role)
                shown = {each.name for each in page.samples}
                if "vllm:kv_cache_usage_perc" not in shown:
                    return False
                return vllm(page, "num_requests_waiting") == 1 and vllm(page, "kv_cache_usage_perc") > 0

            await one.until(b'"content"')
            await until(told, 5)
            page = await page_of(role)
            assert vllm(page, "num_requests_running") == 1
            assert vllm(page, "kv_cache_usage_perc") == vllm(page, "gpu_cache_usage_perc") < 1
            assert page("waiting", model="a") == 1
            await two.leave()
            await one.leave()
            gate.open()

        async def left() -> bool:
            return (await page_of(role)).counted("client_aborts_total").keys() >= {
                ("phase", "queue"),
                ("phase", "stream"),
            }

        await until(left, 5)
        page = await page_of(role)
        assert vllm(page, "request_success_total", finished_reason="abort") == 2
        assert page("requests_total", outcome="hung_up") == 2


async def test_models_that_leave_are_counted_by_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cortex.neuron.orders.BROKEN_S", 0.05)
    scripts = {
        "a": Script(reply="hi", bytes=700 * MIB),
        "b": Script(reply="hi", bytes=700 * MIB),
        "broken": Script(endless=True, crash_after=2),
    }
    async with running_neuron(tmp_path, specs(tmp_path, *scripts), scripts, config=settings()) as role:
        for model in ("a", "b"):
            assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"
        assert (await role.http.post("/models/unload", json={"id": "b"})).status_code == 200
        assert (await role.http.post(CHAT, json=hello("broken"))).status_code == 502

        async def all_three() -> bool:
            counted = (await page_of(role)).counted("evictions_total")
            return counted == {("reason", "room"): 1, ("reason", "asked"): 1, ("reason", "broken"): 1}

        await until(all_three, 5)
        assert (await page_of(role))("load_seconds_count") == 3


async def test_refusals_at_the_door_are_counted_on_a_neuron_too(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), config=settings()) as role:
        answer = await role.http.get("/health", headers={"origin": "http://evil.example"})
        assert answer.status_code == 403
        assert (await page_of(role)).counted("rejections_total") == {("reason", "origin"): 1}
