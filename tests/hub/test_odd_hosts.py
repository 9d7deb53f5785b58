"""Downloads on hosts that are not as they should be: the environment, the cache, the hub's word.

Whatever it is, it is told in one error with its remedy, and never a bug's traceback.
"""

import hashlib
from pathlib import Path

import httpx
import pytest
import trio

from cortex.config.hub import HubConfig
from cortex.errors import CortexError, LoadFailed, Unfit
from cortex.hub import Hub, Source
from cortex.hub.client import Client
from cortex.hub.settings import Settings
from tests.fake_hub import FakeHub, Repo, Seen, fake_hub
from tests.fake_terminal import told

WEIGHTS = bytes(range(256)) * 2000
SOURCE = Source("org/m")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def client(tmp_path: Path, endpoint: str, **more) -> Hub:
    return Hub(HubConfig(cache_dir=tmp_path / "cache", endpoint=endpoint), pauses_s=(0.0, 0.0, 0.0), **more)


async def fetch(hub: Hub, source: Source = SOURCE, notes: list | None = None) -> None:
    await hub.fetch(source, ("gguf",), lambda *said: None if notes is None else notes.append(said))


async def refusal(tmp_path: Path, endpoint: str) -> CortexError:
    with pytest.raises(CortexError) as caught:
        await fetch(client(tmp_path, endpoint))
    return caught.value


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://h", "http://", "http://[::1", "http://h:99999", "http://h:0", "http://a..b", "http://h?x=1"],
)
async def test_an_endpoint_that_is_no_address_is_refused_with_its_place(
    tmp_path: Path, endpoint: str
) -> None:
    error = await refusal(tmp_path, endpoint)
    assert isinstance(error, Unfit)
    assert "[hub] endpoint is no address" in error.message


async def test_a_password_in_the_endpoint_is_refused_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(Unfit, match="HF_ENDPOINT") as caught:
        await fetch(Hub(HubConfig(cache_dir=tmp_path)))
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks4://127.0.0.1:1"), ("HTTPS_PROXY", "x://h"), ("SSL_CERT_FILE", "/nowhere/at/all")],
)
async def test_an_environment_that_no_connection_can_be_made_with_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    error = await refusal(tmp_path, "http://127.0.0.1:9")
    assert isinstance(error, Unfit)
    assert variable in error.message


@pytest.mark.parametrize("variable", ["HF_ENDPOINT=http://[::1", "HF_HUB_DOWNLOAD_TIMEOUT=soon"])
async def test_an_environment_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, variable: str) -> None:
    name, _, value = variable.partition("=")
    said = await told("models", "pull", "hf:org/m", **{name: value, "XDG_CONFIG_HOME": str(tmp_path)})
    assert (said.returncode, said.stderr.count(b"\n")) == (2, 1)
    assert b"begins with HF_" in said.stderr


@pytest.mark.parametrize("to", ["http://a..b/x", "http://h:99999/x", "http://h:0/"])
async def test_a_redirect_to_no_address_is_not_followed(tmp_path: Path, to: str) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        hub.answers["m.gguf"] = [(302, {"Location": to})]
        assert "not safe to follow" in (await refusal(tmp_path, hub.url)).message
        assert len(hub.asked("m.gguf")) == 1


async def test_a_redirect_from_https_to_http_is_not_followed(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": "http://hub/plain"})

    settings = Settings("https://hub", tmp_path, "token", "HF_TOKEN", None)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(LoadFailed, match="not safe to follow"):
            await Client(settings, http).listing(SOURCE)
    assert len(asked) == 1


async def test_what_comes_encoded_is_not_taken(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        hub.answers["m.gguf"] = [(200, {"Content-Encoding": "gzip"})]
        assert "proxy" in (await refusal(tmp_path, hub.url)).message


async def test_another_part_than_the_one_asked_for_is_not_taken(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        hub.cuts["m.gguf"] = [1000]
        content, wrong = hub._content, [f"bytes 0-{len(WEIGHTS) - 1}/{len(WEIGHTS)}", "bytes 1000-1009/1010"]

        async def answer(seen: Seen, stream: trio.SocketStream, *what: str) -> bool:
            if seen.range and wrong:
                return await hub._say(stream, 206, {"Content-Range": wrong.pop(0)}, WEIGHTS[:10])
            return await content(seen, stream, *what)

        hub._content = answer
        await fetch(client(tmp_path, hub.url))
        assert [seen.range for seen in hub.asked("m.gguf", "cdn")] == ["", *["bytes=1000-"] * 3]


async def test_a_listing_without_end_is_not_read_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.hub.client.LISTING_BYTES", 100)
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        assert "more files than any model has" in (await refusal(tmp_path, hub.url)).message


async def test_a_size_that_cannot_be_is_no_listing(tmp_path: Path) -> None:
    odd = {"m.gguf": {"lfs": {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": -5}}}
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS}, told=odd)) as hub:
        error = await refusal(tmp_path, hub.url)
    assert isinstance(error, LoadFailed)
    assert "-5 bytes" in error.message


async def test_a_lock_that_cannot_be_had_is_told_with_the_remedy(tmp_path: Path) -> None:
    """As on a disk that became read-only after the folders were made."""
    locks = tmp_path / "cache" / ".locks" / "models--org--m"
    (locks / f"{hashlib.sha256(WEIGHTS).hexdigest()}.lock").mkdir(parents=True)
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        error = await refusal(tmp_path, hub.url)
    assert isinstance(error, LoadFailed)
    assert "m.gguf" in error.message and "cache_dir" in error.message


# -- the room of the disk


async def meeting(hub: FakeHub, ours: Hub, sources: tuple[Source, ...]) -> list[CortexError]:
    """What came of fetching all of them at once."""
    errors: list[CortexError] = []

    async def one(source: Source) -> None:
        try:
            await fetch(ours, source)
        except CortexError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for source in sources:
            nursery.start_soon(one, source)
    return errors


async def test_what_two_want_needs_room_once(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m-Q4_0.gguf": WEIGHTS})) as hub:
        ours = client(tmp_path, hub.url, free=lambda folder: len(WEIGHTS))
        assert await meeting(hub, ours, (SOURCE, Source("org/m", pick="Q4_0"))) == []
        assert len(hub.asked(".gguf", "cdn")) == 1


async def test_of_two_that_come_at_once_one_has_the_room(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS}), n=Repo({"n.gguf": WEIGHTS[::-1]})) as hub:
        ours = client(tmp_path, hub.url, free=lambda folder: len(WEIGHTS) + 5)
        # Both are held up until both have their listings, and then look at the disk together.
        hub.halts[".gguf"] = (0, go := trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: _after(hub.halted, go))
            errors = await meeting(hub, ours, (SOURCE, Source("org/n")))
        assert [type(error) for error in errors] == [Unfit]
        assert "beside other downloads" in errors[0].message


async def _after(first: trio.Event, then: trio.Event) -> None:
    await first.wait()
    await trio.testing.wait_all_tasks_blocked(0.1)
    then.set()


async def test_who_waits_for_another_process_sees_how_far_that_is(tmp_path: Path) -> None:
    large = WEIGHTS * 8
    async with fake_hub(m=Repo({"m.gguf": large})) as hub:
        hub.halts[".gguf"] = (len(large) // 2, go := trio.Event())
        notes: list = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, client(tmp_path, hub.url))
            await hub.halted.wait()
            nursery.start_soon(fetch, client(tmp_path, hub.url), SOURCE, notes)
            while not any(done > 0 for _, done, _ in notes):  # noqa: ASYNC110
                await trio.sleep(0.01)
            go.set()
    assert notes[-1] == ("download", len(large), len(large))
