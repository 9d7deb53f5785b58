"""JSON whose text is no UTF-8, or nested without end, or too long to be quoted: nonsense, and no bug of ours.

msgspec has an error of its own for each, and only one of them is a DecodeError.
"""

import pytest

from cortex.errors import LONGEST_NAME, LONGEST_WORDS, BadAsk, CortexError, Unsupported, UpstreamFailed, brief
from cortex.status.fetch import asker
from cortex.translator import openai_chat
from cortex.wire import refusals
from cortex.wire.neuron import Health, Residents
from cortex.wire.reading import of_peer
from cortex.wire.responses_trail import Trail
from tests.fake_neuron import fake_neuron, open_gateway
from tests.fake_upstream import whole

NONSENSE = {
    "no UTF-8": b'{"resident":{"id":"\xff"},"models":[{"id":"\xff"}],"error":{"message":"\xff"}}',
    "half a surrogate": b'{"resident":{"id":"\\ud8"},"models":[{"id":"\\ud8"}],"error":{"message":"\\ud8"}}',
    "nested": b'{"resident":' + b"[" * 5000,
    "cut": b'{"models":[{"id":"a',
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_what_a_peer_says_is_understood_or_is_a_value_error(said: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        of_peer(said, Residents)


def test_why_it_is_not_understood_is_told_in_short() -> None:
    with pytest.raises(ValueError, match="Invalid") as caught:
        of_peer(b'{"activation":{"state":"%b"}}' % (b"x" * 9000), Health)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_a_refusal_that_cannot_be_read_is_none(said: bytes) -> None:
    assert refusals.read(said) is None
    assert refusals.in_stream(b'{"error"' + said.partition(b'"error"')[2]) is None


def test_a_refusal_without_words_has_words_of_ours() -> None:
    error = refusals.in_stream(b'{"error":{"message":"","code":"engine_failed"}}')
    assert error is not None
    assert "did not say why" in error.message


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_an_event_that_cannot_be_read_tells_a_trail_nothing(said: bytes) -> None:
    trail = Trail()
    trail.feed(b'data: {"response":{"id":"\xff"},' + said[1:] + b"\n\n")
    assert trail.response is None


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_a_load_that_ends_in_nonsense_is_that_neurons_failure(said: bytes) -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.on["/models/load"].append(neuron.plan(whole(200, said)))
        answer = await gateway.ask("a")
        assert answer.status_code == 502
        assert "nonsense" in answer.json()["error"]["message"]


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_a_command_that_hears_nonsense_says_so(said: bytes, status: int) -> None:
    async with fake_neuron() as neuron:
        neuron.on["/health"].extend([neuron.plan(whole(status, said))] * 2)
        async with asker(neuron.url, None) as asked:
            with pytest.raises(CortexError, match=r"not as a cortex does|answers (401|500)"):
                await asked.health()


# -- what is long


def test_a_refusal_does_not_grow_with_what_it_quotes() -> None:
    word = "x" * 30_000
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"response_format":{"type":"%b"}}'
    with pytest.raises(Unsupported) as caught:
        openai_chat.read(body % word.encode())
    assert len(caught.value.message) <= LONGEST_WORDS
    assert caught.value.message.startswith("response_format 'xxx")
    assert caught.value.message.endswith("say text, json_object or json_schema")


def test_nor_does_the_name_of_a_field() -> None:
    error = BadAsk("no", param="chat_template_kwargs." + "x" * 60_000)
    assert error.param is not None
    assert len(error.param) <= LONGEST_NAME


def test_what_another_engine_says_is_told_whole() -> None:
    """It has a bound of its own, and is no caller's."""
    assert UpstreamFailed("x" * 1500).message == "x" * 1500


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 500])
def test_brief_words_are_as_long_as_they_may_be_or_as_they_are(size: int) -> None:
    words = "".join(chr(0x4E00 + number) for number in range(size))
    said = brief(words, 10)
    assert len(said) <= 10
    assert said == words or (said[:3] == words[:3] and said[-3:] == words[-3:])
