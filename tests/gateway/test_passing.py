"""What goes through a gateway arrives as it was sent, both ways, and nothing private goes along."""

import re
from functools import partial

import pytest
import trio

from cortex.ask import Sampling
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import (
    ANSWER,
    CHUNKED,
    STREAM,
    STREAMED,
    USAGE,
    WHOLE,
    body,
    fake_neuron,
    open_gateway,
)
from tests.fake_upstream import STREAM_HEAD, Drip, Received, Send, chunks, head, last_chunk, whole
from tests.fake_web import ask

# Escapes, an odd order, a float that no library would write so, text in two spellings.
ODD = (
    b'\n{ "temperature":1.0e-0,"messages" :[{"role":"user","content":"caf\\u00e9 caf\xc3\xa9"}],\t'
    b'"unheard_of": {"model": "x", "deep":[1,2.50]}, "model" : "%b" , "top_p":0.10}\r\n'
)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def names(received: Received) -> list[str]:
    return [name.lower() for name, _ in received.headers]


def value(received: Received, name: str) -> str | None:
    return next((text for key, text in received.headers if key.lower() == name), None)


async def test_a_body_reaches_the_neuron_byte_for_byte() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", ODD % b"a", content_type="application/json"))
        assert (await client.answer()).status == 200
        assert neuron.requests[0].body == ODD % b"a"
        assert neuron.requests[0].head[0] == "POST /v1/chat/completions HTTP/1.1"


async def test_of_an_alias_only_the_name_is_replaced() -> None:
    catalogue = Catalogue({"a": ModelSpec("a")}, {"short": "a"})
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=catalogue) as gateway:
        client = await gateway.dial()
        await client.send(ask("/v1/completions", ODD % b"short"))
        assert (await client.answer()).headers["x-cortex-model"] == "a"
        assert neuron.requests[0].body == ODD % b"a"
        assert neuron.requests[0].head[0] == "POST /v1/completions HTTP/1.1"


async def test_the_sampling_of_an_alias_goes_beside_the_body() -> None:
    """The neuron lays it under what the body says. A client cannot say it himself."""
    warm = {"warm": Sampling(temperature=1.5, logit_bias={7: -1.0})}
    catalogue = Catalogue({"a": ModelSpec("a")}, {"warm": "a", "plain": "a"}, warm)
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=catalogue) as gateway:
        client = await gateway.dial()
        for name in ("warm", "plain", "a"):
            await client.send(ask("/v1/completions", ODD % name.encode(), x_cortex_sampling='{"top_k": 1}'))
            assert (await client.answer()).status == 200
        assert [received.body for received in neuron.requests] == [ODD % b"a"] * 3
        assert [value(received, "x-cortex-sampling") for received in neuron.requests] == [
            '{"temperature":1.5,"logit_bias":{"7":-1.0}}',
            None,
            None,
        ]


async def test_a_chunked_body_arrives_whole_with_a_length() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        client = await gateway.dial()
        sent = body()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
            + chunks(sent[:5], sent[5:])
            + last_chunk()
        )
        assert (await client.answer()).status == 200
        assert neuron.requests[0].body == sent
        assert value(neuron.requests[0], "content-length") == str(len(sent))


async def test_a_whole_answer_comes_back_byte_for_byte_with_status_and_type() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(Send(whole(200, ANSWER, content_type="application/json; x=1")))
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", body()))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, ANSWER)
        assert answer.headers["content-type"] == "application/json; x=1"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 4096])
async def test_a_stream_comes_back_byte_for_byte_however_it_is_cut(piece: int) -> None:
    """Rows 11, 13: cut within chunk sizes, code points, events and line ends; the trailer is kept back."""
    assert USAGE.encode() in CHUNKED
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(Send(STREAM_HEAD), Drip(CHUNKED, piece))
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", body(stream=True)))
        answer = await client.answer()
        assert (answer.status, answer.body, answer.trailers) == (200, STREAM, {})
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        await client.send(ask("/v1/chat/completions", body()))
        assert (await client.answer()).body == ANSWER, "the connection can carry the next request"


async def test_one_connection_to_the_neuron_serves_request_after_request() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAMED)
        neuron.then(WHOLE)
        neuron.then(STREAMED)
        for stream in (True, False, True):
            assert (await gateway.ask(stream=stream)).status_code == 200
        assert len({request.connection for request in neuron.requests}) == 1


PRIVATE = {
    "authorization": "Bearer sk-canary-key",
    "cookie": "session=canary-cookie",
    "proxy-authorization": "Basic canary",
    "x-forwarded-for": "10.9.8.7",
    "user-agent": "canary/1",
    "accept-encoding": "gzip, br",
    "x-session-id": "canary-session",
    "x-cortex-route": "canary-route",
    "x-cortex-key-name": "canary-name",
    "x-cortex-not-started": "1",
    "x-cortex-usage": "prompt=1,completion=1",
    "connection": "keep-alive, x-canary",
    "x-canary": "canary",
}


async def test_nothing_private_goes_on_and_the_fleet_token_does() -> None:
    key = Key("ann", fleet_credential("sk-canary-key").sha256)
    config = GatewayConfig(keys=(key,), trusted_proxies=())
    async with fake_neuron("a") as neuron:
        async with open_gateway(neuron, config=config, token="fleet-secret") as gateway:
            client = await gateway.dial()
            headers = {
                **PRIVATE,
                "content-type": "application/json; charset=utf-8",
                "accept": "text/event-stream",
                "anthropic-version": "2023-06-01",
                "anthropic-beta": "b1",
                "x-cortex-trace": "mine",
            }
            await client.send(ask("/v1/chat/completions", body(), **headers))
            assert (await client.answer()).status == 200
            seen = neuron.requests[0]
            assert "canary" not in seen.raw.decode("latin-1")
            assert dict(seen.headers) == {
                "host": f"127.0.0.1:{neuron.port}",
                "accept-encoding": "identity",
                "content-length": str(len(body())),
                "authorization": "Bearer fleet-secret",
                "content-type": "application/json; charset=utf-8",
                "accept": "text/event-stream",
                "anthropic-version": "2023-06-01",
                "anthropic-beta": "b1",
                "x-cortex-trace": "mine",
                "x-cortex-route": value(seen, "x-cortex-route"),
                "x-cortex-key-name": "ann",
                "x-cortex-patience": value(seen, "x-cortex-patience"),
                "x-request-id": value(seen, "x-request-id"),
            }
            assert len(names(seen)) == len(set(names(seen)))


async def test_control_calls_carry_the_fleet_token_and_ask_for_plain_bytes() -> None:
    async with (
        fake_neuron() as neuron,
        open_gateway(neuron, catalogue=["a"], token="fleet-secret") as gateway,
    ):
        assert (await gateway.ask()).status_code == 200
        for received in (neuron.poll, *neuron.orders):
            assert received is not None
            assert value(received, "authorization") == "Bearer fleet-secret"
            assert value(received, "accept-encoding") == "identity"


async def test_a_poll_that_is_redirected_takes_the_token_nowhere() -> None:
    """Row 21."""
    async with fake_neuron("a") as neuron, fake_neuron() as thief:
        async with open_gateway(neuron, token="fleet-secret") as gateway:
            away = neuron.plan(head(307, f"location: {thief.url}/health", "content-length: 0"))
            neuron.on["/health"].extend([away] * 3)
            await gateway.knows(lambda ledger: not ledger.place("n1").ready)
            assert thief.poll is None and thief.connections == 0


async def test_a_key_in_the_other_header_does_not_go_on_either() -> None:
    key = Key("ann", fleet_credential("sk-canary-key").sha256)
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=GatewayConfig(keys=(key,))) as gateway:
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", body(), x_api_key="sk-canary-key"))
        assert (await client.answer()).status == 200
        assert "canary" not in neuron.requests[0].raw.decode()
        assert "authorization" not in names(neuron.requests[0]), "this neuron has no token"


async def test_a_request_is_marked_with_the_gateways_boot_id() -> None:
    async with fake_neuron("a") as neuron:
        marks = []
        for _ in range(2):
            async with open_gateway(neuron) as gateway:
                await gateway.ask()
                boot_id = (await gateway.http.get("/fleet")).json()["gateway"]["boot_id"]
                marks.append(value(neuron.requests[-1], "x-cortex-route"))
                assert marks[-1] == boot_id
        assert marks[0] != marks[1]
        assert value(neuron.requests[0], "x-cortex-key-name") is None


async def test_of_the_answers_headers_only_ours_come_back() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        for said in (WHOLE, STREAMED.replace(b"\r\n\r\n", b"\r\nset-cookie: a=b\r\nserver: x\r\n\r\n", 1)):
            neuron.then(said)
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body(stream=said is not WHOLE)))
            answer = await client.answer()
            assert answer.status == 200
            ours = set(answer.headers) - {"content-length", "transfer-encoding", "cache-control"}
            assert ours == {"date", "content-type", "x-request-id", "x-cortex-neuron", "x-cortex-model"}
            assert answer.headers["x-cortex-neuron"] == "n1", "the gateway's name for it, not its own"
            assert answer.headers["x-cortex-model"] == "a"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_request_id_is_the_same_at_client_and_neuron(stream: bool) -> None:
    async with (
        fake_neuron("a", otherwise=STREAMED if stream else WHOLE) as neuron,
        open_gateway(neuron) as gateway,
    ):
        url = "/v1/chat/completions"
        for given in ("mine-1", None, "bad id", "x" * 200):
            client = await gateway.dial()
            headers = {} if given is None else {"x-request-id": given}
            await client.send(ask(url, body(stream=stream), **headers))
            returned = (await client.answer()).headers["x-request-id"]
            assert value(neuron.requests[-1], "x-request-id") == returned
            assert (returned == given) is (given == "mine-1")
            assert re.fullmatch(r"[\x21-\x7e]{1,128}", returned)


async def test_a_refusal_carries_the_request_id_in_header_and_body() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        answer = await gateway.http.post(
            "/v1/chat/completions", content=b'{"model": "b"', headers={"x-request-id": "mine"}
        )
        assert answer.status_code == 400
        assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"] == "mine"
        assert not neuron.requests


async def test_a_caller_error_of_the_neuron_reaches_the_client_intact() -> None:
    said = b'{"error":{"message":"\'top_k\' is not for this engine","code":"unsupported_parameter"}}'
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(whole(400, said, "x-should-retry: false"))
        answer = await gateway.ask()
        assert (answer.status_code, answer.content) == (400, said)
        assert answer.headers["x-should-retry"] == "false"


async def test_conversations_return_to_the_neuron_that_knows_them() -> None:
    """By session header, else by what the body says; without load to tell the neurons apart."""
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:

        async def where(**headers: str) -> str:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body(), **headers))
            return (await client.answer()).headers["x-cortex-neuron"]

        assert len({await where(x_session_id="s") for _ in range(3)}) == 1
        assert {await where(session_id=str(number)) for number in range(8)} == {"n1", "n2"}


async def test_what_names_a_conversation_is_kept_short_while_it_waits() -> None:
    """Each look at the line hashes it for each neuron: 64 MiB of a name would stop the gateway."""
    long = "x" * 10_000
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.loading = trio.Event()
        async with trio.open_nursery() as nursery:
            for more in (
                {"user": f"u{long}"},
                {"prompt_cache_key": long},
                {"metadata": {"user_id": f"s{long}"}},
            ):
                nursery.start_soon(partial(gateway.ask, **more))
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body(), x_session_id=long))
            await gateway.knows(lambda ledger: ledger.waiting == 4)
            kept = {ticket.want.affinity for ticket in gateway.ledger._lines["a"]}
            neuron.loading.set()
        assert len(kept) == 4 and max(map(len, kept)) <= 16
