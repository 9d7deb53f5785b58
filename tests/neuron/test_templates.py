"""A model is spoken to by the template that lies beside it, and what that cannot do is refused unloaded."""

from pathlib import Path

import pytest
import trio

from cortex import demo
from cortex.config.neuron import NeuronConfig
from tests.calls import CHAT, Json, fault_of, residents, text_of
from tests.demo_questions import WEATHER
from tests.roles import Running, demo_neuron

# The demo's marks, and nothing of tools or thoughts but a tag without a switch.
BARE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\\n' if add_generation_prompt }}{# <think> #}"
)
SHOWN = BARE + "{% for t in tools or [] %}{% endfor %}"


def user(**more: object) -> Json:
    asked = {"role": "user", "content": "What is the capital of France?"}
    return {"model": "mine", "messages": [asked], "temperature": 0, **more}


@pytest.fixture
async def neuron(tmp_path: Path):
    (tmp_path / "mine.gguf").write_bytes(demo.GGUF.read_bytes())
    with trio.fail_after(30):
        async with demo_neuron(NeuronConfig(model_roots=(tmp_path,))) as role:
            yield role


@pytest.mark.parametrize(
    ("template", "more", "param"),
    [
        (BARE, {"tools": [WEATHER]}, "tools"),
        (SHOWN, {"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        (BARE, {"enable_thinking": False}, "enable_thinking"),
        (
            BARE,
            {"chat_template_kwargs": {"preserve_thinking": True}},
            "chat_template_kwargs.preserve_thinking",
        ),
        (BARE, {"chat_template_kwargs": {"date_string": "x"}}, "chat_template_kwargs.date_string"),
    ],
)
async def test_what_a_template_cannot_do_is_refused_before_the_model_is_loaded(
    neuron: Running, tmp_path: Path, template: str, more: Json, param: str
) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    for stream in (False, True):
        answer = await neuron.http.post(CHAT, json=user(stream=stream, **more))
        assert (answer.status_code, fault_of(answer)["param"]) == (400, param), answer.text
    assert await residents(neuron) == {}


async def test_a_template_that_is_put_beside_the_weights_is_the_one_at_the_next_load(
    neuron: Running, tmp_path: Path
) -> None:
    """Without a restart, and without touching the weights."""
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages")
    answer = await neuron.http.post(CHAT, json=user())
    assert answer.status_code == 422
    assert "chat template is refused" in fault_of(answer)["message"]
    (tmp_path / "chat_template.jinja").write_text(BARE)
    answer = await neuron.http.post(CHAT, json=user())
    assert text_of(answer) == "The capital of France is Paris."
    assert (await neuron.http.post(CHAT, json=user(tools=[WEATHER]))).status_code == 400
