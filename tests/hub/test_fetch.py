"""Bringing a model from a hub into the cache: whole and verified, or not at all.

Fault rows: "download cut / wrong hash / symlink or `..` in file list / pickle file | resume or
refuse" (80), "disk full in download | partial removed, no half model visible" (79), "model repo
with code | never executed, never importable" (81).
"""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import trio

from cortex.config.hub import HubConfig
from cortex.errors import CortexError, LoadFailed, Unfit
from cortex.hub import Hub, Local, Source
from tests.fake_hub import COMMIT, FakeHub, Repo, fake_hub

WEIGHTS = bytes(range(256)) * 2000
SMALL = {"config.json": b'{"model_type": "x"}', "README.md": b"read me"}
GGUF = ("gguf",)
SOURCE = Source("org/m")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def repo(**more) -> Repo:
    return Repo({**SMALL, "m-Q4_K_M.gguf": WEIGHTS}, **more)


def client(hub: FakeHub, tmp_path: Path, **more) -> Hub:
    known = {key: more.pop(key) for key in ("token_env", "offline") if key in more}
    config = HubConfig(cache_dir=tmp_path / "cache", endpoint=hub.url, **known)
    return Hub(config, pauses_s=(0.0, 0.0, 0.0), **more)


async def fetched(hub: Hub, source: Source = SOURCE, formats=GGUF, told: list | None = None) -> Local:
    notes = [] if told is None else told
    return await hub.fetch(source, formats, lambda *said: notes.append(said))


def held(tmp_path: Path, name: str = "m") -> set[str]:
    """What the snapshots of a repo show."""
    snapshots = tmp_path / "cache" / f"models--org--{name}" / "snapshots"
    return {str(path.relative_to(snapshots)) for path in snapshots.rglob("*") if path.is_file()}


def partials(tmp_path: Path) -> dict[str, int]:
    found = (tmp_path / "cache").rglob("*.incomplete")
    return {path.name: path.stat().st_size for path in found}


async def test_a_model_is_whole_verified_and_linked_to_its_commit(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        told: list = []
        local = await fetched(client(hub, tmp_path), told=told)
    assert local.path.read_bytes() == WEIGHTS
    assert (local.commit, local.format, local.bytes) == (COMMIT, "gguf", len(WEIGHTS))
    assert held(tmp_path) == {f"{COMMIT}/config.json", f"{COMMIT}/m-Q4_K_M.gguf"}
    assert not partials(tmp_path)
    total = len(WEIGHTS) + len(SMALL["config.json"])
    assert told[-1] == ("verify", total, total)
    # Bytes grow within each phase, over all files, and both phases are told of.
    for phase in ("download", "verify"):
        done = [said[1] for said in told if said[0] == phase]
        assert done == sorted(done) and done[-1] == total
        assert {said[2] for said in told if said[0] == phase} == {total}


async def test_other_tools_of_the_hub_find_what_was_fetched(tmp_path: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    async with fake_hub(m=repo()) as hub:
        local = await fetched(client(hub, tmp_path))
    found = try_to_load_from_cache("org/m", "m-Q4_K_M.gguf", cache_dir=tmp_path / "cache")
    assert found == str(local.path)
    (scanned,) = scan_cache_dir(tmp_path / "cache").repos
    assert (scanned.repo_id, scanned.refs["main"].commit_hash) == ("org/m", COMMIT)
    assert scanned.size_on_disk == len(WEIGHTS) + len(SMALL["config.json"])


async def test_what_other_tools_fetched_is_found(tmp_path: Path) -> None:
    """Laid out by hand, as huggingface_hub documents its cache."""
    folder = tmp_path / "cache" / "models--org--m"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs").mkdir()
    (folder / "blobs" / "abc").write_bytes(WEIGHTS)
    (folder / "snapshots" / COMMIT / "m-Q4_K_M.gguf").symlink_to("../../blobs/abc")
    (folder / "refs" / "main").write_text(COMMIT)
    hub = Hub(HubConfig(cache_dir=tmp_path / "cache"))
    local = hub.cached(SOURCE, GGUF)
    assert local is not None and local.path.read_bytes() == WEIGHTS
    assert hub.cached(Source("org/m", pick="Q8_0"), GGUF) is None
    assert hub.cached(Source("org/m", "other"), GGUF) is None


async def test_a_link_that_leaves_the_cache_is_no_file_of_a_model(tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--org--m" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (tmp_path / "outside.gguf").write_bytes(WEIGHTS)
    (snapshot / "m.gguf").symlink_to(tmp_path / "outside.gguf")
    assert Hub(HubConfig(cache_dir=tmp_path / "cache")).cached(Source("org/m", COMMIT), GGUF) is None


async def test_code_and_pickles_are_never_fetched(tmp_path: Path) -> None:
    code = {
        "modeling_evil.py": b"import os",
        "pytorch_model.bin": b"\x80\x04",
        "model.pth": b"\x80\x04",
        "tool.sh": b"#!",
        "config.json": b'{"auto_map": {"AutoModel": "modeling_evil.Evil"}}',
        "chat_template.jinja": b"{{ messages }}",
        "tokenizer.model": b"spm",
        "vocab.txt": b"a",
    }
    async with fake_hub(m=Repo({**code, "m.gguf": WEIGHTS})) as hub:
        await fetched(client(hub, tmp_path))
        asked = {seen.path.rpartition("/")[2] for seen in hub.requests if "/resolve/" in seen.path}
    wanted = {"config.json", "chat_template.jinja", "tokenizer.model", "vocab.txt", "m.gguf"}
    assert asked == wanted
    assert {name.rpartition("/")[2] for name in held(tmp_path)} == wanted


async def test_a_cut_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.cuts[".gguf"] = [100_000, 7, 50_000]
        local = await fetched(client(hub, tmp_path))
        ranges = [seen.range for seen in hub.asked(".gguf", "cdn")]
    assert local.path.read_bytes() == WEIGHTS
    assert ranges == ["", "bytes=100000-", "bytes=100007-", "bytes=150007-"]


async def test_a_line_that_breaks_too_often_is_an_error_and_keeps_what_came(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.cuts[".gguf"] = [1000] * 4
        with pytest.raises(LoadFailed, match=r"org/m.*goes on from there"):
            await fetched(client(hub, tmp_path))
        assert len(hub.asked(".gguf", "cdn")) == 4
        assert held(tmp_path) == set()
        assert list(partials(tmp_path).values()) == [4000]
        local = await fetched(client(hub, tmp_path))
        assert hub.asked(".gguf", "cdn")[-1].range == "bytes=4000-"
    assert local.path.read_bytes() == WEIGHTS


async def test_a_hub_that_ignores_ranges_sends_it_whole(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.cuts[".gguf"], hub.whole_only = [1000], True
        told: list = []
        local = await fetched(client(hub, tmp_path), told=told)
    assert local.path.read_bytes() == WEIGHTS
    assert max(said[1] for said in told) == told[-1][2]


async def test_wrong_bytes_are_thrown_away_and_told(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.lies[".gguf"] = [WEIGHTS[::-1]]
        with pytest.raises(LoadFailed, match=r"m-Q4_K_M\.gguf of org/m is not what the hub says"):
            await fetched(client(hub, tmp_path))
        assert (held(tmp_path), partials(tmp_path)) == (set(), {})
        # In one go, so nothing of ours could be to blame: not asked for twice.
        assert len(hub.asked(".gguf", "cdn")) == 1
        assert (await fetched(client(hub, tmp_path))).path.read_bytes() == WEIGHTS


async def test_small_files_are_verified_as_git_hashes_them(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.lies["config.json"] = [b'{"model_type": "y"}']
        with pytest.raises(LoadFailed, match=r"config\.json of org/m is not what"):
            await fetched(client(hub, tmp_path))


async def test_a_bad_part_from_earlier_is_fetched_anew_once(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        blobs = tmp_path / "cache" / "models--org--m" / "blobs"
        blobs.mkdir(parents=True)
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        (blobs / f"{digest}.incomplete").write_bytes(b"x" * 1000)
        local = await fetched(client(hub, tmp_path))
        ranges = [seen.range for seen in hub.asked(".gguf", "cdn")]
    assert local.path.read_bytes() == WEIGHTS
    assert ranges == ["bytes=1000-", ""]


@pytest.mark.parametrize("length", [len(WEIGHTS) + 1, len(WEIGHTS)], ids=["too long", "as long"])
async def test_a_part_that_cannot_be_one_is_thrown_away(tmp_path: Path, length: int) -> None:
    async with fake_hub(m=repo()) as hub:
        blobs = tmp_path / "cache" / "models--org--m" / "blobs"
        blobs.mkdir(parents=True)
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        (blobs / f"{digest}.incomplete").write_bytes(b"x" * length)
        assert (await fetched(client(hub, tmp_path))).path.read_bytes() == WEIGHTS


async def test_more_bytes_than_told_are_not_taken(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.lies[".gguf"] = [WEIGHTS + b"more"]
        with pytest.raises(LoadFailed, match="more than"):
            await fetched(client(hub, tmp_path))
    assert held(tmp_path) == set()


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS, "vocab.txt": b""})) as hub:
        local = await fetched(client(hub, tmp_path))
    assert (local.path.parent / "vocab.txt").read_bytes() == b""


# -- refusals of the hub


async def refused(hub: FakeHub, tmp_path: Path, source: Source = SOURCE, **more) -> CortexError:
    with pytest.raises(CortexError) as caught:
        await fetched(client(hub, tmp_path, **more), source)
    assert held(tmp_path) == set()
    return caught.value


async def test_a_repo_that_is_not_there_is_named_with_the_spelling_as_remedy(tmp_path: Path) -> None:
    async with fake_hub() as hub:
        error = await refused(hub, tmp_path)
    assert isinstance(error, Unfit)
    for part in ("org/m", "spelling", "HF_TOKEN", hub.url):
        assert part in error.message


async def test_a_private_repo_opens_with_the_token_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_hub(m=repo(token="right")) as hub:
        assert "org/m" in (await refused(hub, tmp_path, token_env="MY_TOKEN")).message
        monkeypatch.setenv("MY_TOKEN", "right")
        assert (await fetched(client(hub, tmp_path, token_env="MY_TOKEN"))).path.read_bytes() == WEIGHTS


async def test_a_gated_repo_names_the_page_where_its_licence_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_hub(m=repo(token="right", gated=True)) as hub:
        error = await refused(hub, tmp_path)
        assert isinstance(error, Unfit)
        for part in ("org/m is gated", f"{hub.url}/org/m", "HF_TOKEN"):
            assert part in error.message
        monkeypatch.setenv("HF_TOKEN", "of somebody else")
        assert "spaces" in (await refused(hub, tmp_path)).message
        monkeypatch.setenv("HF_TOKEN", "somebody-elses")
        error = await refused(hub, tmp_path)
        assert "belongs to an account with access" in error.message
        assert "somebody-elses" not in error.message


@pytest.mark.parametrize(
    ("status", "headers", "words", "kind"),
    [
        (401, {}, "to the token in HF_TOKEN", Unfit),
        (403, {}, "accept its licence", Unfit),
        (403, {"X-Error-Code": "Other"}, "does not allow", Unfit),
        (404, {}, "check the spelling", Unfit),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'main'", Unfit),
        (403, {"X-Error-Code": "DisabledRepo"}, "disabled", Unfit),
        (418, {}, "status 418", LoadFailed),
    ],
)
async def test_what_is_definite_is_asked_once_and_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, headers: dict, words: str, kind: type
) -> None:
    monkeypatch.setenv("HF_TOKEN", "token")
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(status, headers)] * 2
        error = await refused(hub, tmp_path)
        assert len(hub.requests) == 1
    assert type(error) is kind
    assert words in error.message and "org/m" in error.message


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_passes_is_waited_for(tmp_path: Path, status: int) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(status, {"Retry-After": "0"})] * 2
        hub.answers["config.json"] = [(status, {})] * 3
        assert (await fetched(client(hub, tmp_path))).path.read_bytes() == WEIGHTS


async def test_what_does_not_pass_is_an_error_after_three_more_tries(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(503, {})] * 9
        error = await refused(hub, tmp_path)
        assert len(hub.requests) == 4
    assert isinstance(error, LoadFailed)
    assert "status 503" in error.message


async def test_a_hub_that_wants_to_be_left_alone_for_long_is(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(429, {"Retry-After": "300"})]
        error = await refused(hub, tmp_path)
        assert len(hub.requests) == 1
    assert (error.status, error.retry_after_s) == (502, 300.0)
    assert "429" in error.message and "5m" in error.message


async def test_a_retry_after_is_waited_out(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    from cortex.hub.refusals import Cut
    from cortex.hub.tries import Tries

    tries = Tries("x", "y", (1.0, 2.0, 4.0))
    for wait_s, waited in ((7.0, 7.0), (None, 2.0), (60.0, 60.0)):
        began = trio.current_time()
        await tries.again(Cut("because", wait_s))
        assert trio.current_time() - began == waited
    with pytest.raises(LoadFailed, match=r"x could not be had: because \(try 4\); y"):
        await tries.again(Cut("because"))


async def test_tries_are_counted_from_the_last_one_that_brought_much(
    autojump_clock: trio.testing.MockClock,
) -> None:
    from cortex.hub.refusals import Cut
    from cortex.hub.tries import PROGRESS_BYTES, Tries

    tries = Tries("x", "y", (1.0, 2.0, 4.0))
    waited = []
    for gained in (PROGRESS_BYTES, PROGRESS_BYTES - 1) * 20:
        began = trio.current_time()
        await tries.again(Cut("because"), gained)
        waited.append(trio.current_time() - began)
    assert waited == [1.0, 2.0] * 20
    await tries.again(Cut("because"), PROGRESS_BYTES - 1)
    with pytest.raises(LoadFailed, match="try 4"):
        await tries.again(Cut("because"), PROGRESS_BYTES - 1)


async def test_a_hub_that_nobody_reaches_is_named_with_the_remedy(tmp_path: Path) -> None:
    async with fake_hub() as hub:
        pass
    error = await refused(hub, tmp_path)
    assert isinstance(error, LoadFailed)
    for part in ("org/m", "127.0.0.1", "HTTPS_PROXY", "[hub] endpoint"):
        assert part in error.message


# -- redirects


async def test_the_token_is_for_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(307, {"Location": "/api/models/org/m/revision/main"})]
        hub.cuts[".gguf"] = [10]
        await fetched(client(hub, tmp_path))
        sent = {seen.host: set() for seen in hub.requests}
        for seen in hub.requests:
            sent[seen.host].add(seen.headers.get("authorization"))
    # Kept where a redirect stays at home, and every try begins there anew.
    assert sent == {"hub": {"Bearer secret-token"}, "cdn": {None}}
    assert len(hub.asked(".gguf", "hub")) == len(hub.asked(".gguf", "cdn")) == 2


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://x/y"])
async def test_only_web_addresses_are_followed(tmp_path: Path, to: str) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(302, {"Location": to})]
        assert "not safe" in (await refused(hub, tmp_path)).message


async def test_redirects_in_circles_end(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/revision/main"] = [(302, {"Location": "main"})] * 20
        assert "circles" in (await refused(hub, tmp_path)).message
        assert len(hub.requests) == 6


async def test_an_address_that_ran_out_is_asked_for_again(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.answers["/resolve/m-Q4_K_M.gguf"] = [(403, {})]
        assert (await fetched(client(hub, tmp_path))).path.read_bytes() == WEIGHTS
        assert len(hub.asked(".gguf", "hub")) == 2


# -- what a listing may not say


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../x.json",
            "a/../../x.json",
            "/etc/x.json",
            "a//x.json",
            "./x.json",
            "a\\x.json",
            "a\nb.json",
            "",
        ),
        *("a\x1b[2Jb.json", "é" * 126 + ".json", "a/" * 16 + "x.json"),
    ],
)
async def test_a_name_that_could_leave_its_folder_condemns_the_repo(tmp_path: Path, name: str) -> None:
    async with fake_hub(m=repo(odd=[{"rfilename": name, "size": 1, "blobId": "a" * 40}])) as hub:
        error = await refused(hub, tmp_path)
        assert len(hub.requests) == 1
    assert isinstance(error, Unfit)
    assert "org/m" in error.message and "nothing of this repo is downloaded" in error.message


async def test_a_link_or_a_name_listed_twice_condemns_the_repo(tmp_path: Path) -> None:
    link = {"rfilename": "l.gguf", "size": 9, "blobId": "a" * 40, "type": "symlink"}
    async with fake_hub(m=repo(odd=[link]), n=repo(odd=[{"rfilename": "config.json"}])) as hub:
        assert "symlink" in (await refused(hub, tmp_path)).message
        assert "twice" in (await refused(hub, tmp_path, Source("org/n"))).message
        assert not [seen for seen in hub.requests if "/resolve/" in seen.path]


@pytest.mark.parametrize("digest", ["", "short", "../../../../etc/cron.d/x" + "0" * 40, "G" * 64])
async def test_a_file_without_a_digest_is_not_taken(tmp_path: Path, digest: str) -> None:
    told = {"m-Q4_K_M.gguf": {"lfs": {"sha256": digest, "size": len(WEIGHTS)}}}
    async with fake_hub(m=repo(told=told)) as hub:
        assert "no digest of m-Q4_K_M.gguf" in (await refused(hub, tmp_path)).message


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"sha": 1}', b'{"siblings": []}', b'{"sha": "../../x"}'])
async def test_a_listing_that_is_none_is_told(tmp_path: Path, body: bytes) -> None:
    async with fake_hub(m=repo()) as hub:

        async def say(seen, stream, *_):
            return await hub._say(stream, 200, {}, body)

        hub._list = say
        assert "org/m" in (await refused(hub, tmp_path)).message


# -- the disk


async def test_a_model_too_large_for_the_disk_is_refused_before_any_byte(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        error = await refused(hub, tmp_path, free=lambda folder: 5000)
        assert not [seen for seen in hub.requests if "/resolve/" in seen.path]
    need = len(WEIGHTS) + len(SMALL["config.json"])
    assert isinstance(error, Unfit)
    for part in (f"({need} bytes)", "(5000 bytes)", str(tmp_path / "cache"), "[hub] cache_dir"):
        assert part in error.message
    assert error.facts == {"needed_bytes": need, "free_bytes": 5000}


async def test_what_is_here_already_needs_no_room(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.cuts[".gguf"] = [400_000] + [0] * 3
        with pytest.raises(LoadFailed):
            await fetched(client(hub, tmp_path))
        rest = len(WEIGHTS) - 400_000
        assert (await refused(hub, tmp_path, free=lambda folder: rest - 1)).facts["needed_bytes"] == rest
        await fetched(client(hub, tmp_path, free=lambda folder: rest))


async def test_downloads_leave_each_other_the_room_they_need(tmp_path: Path) -> None:
    other = Repo({"n.gguf": WEIGHTS[::-1]})
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS}), n=other) as hub, trio.open_nursery() as nursery:
        go = trio.Event()
        hub.halts["m.gguf"] = (200_000, go)
        both = client(hub, tmp_path, free=lambda folder: 2 * len(WEIGHTS) - 400_000)
        nursery.start_soon(fetched, both)
        await hub.halted.wait()
        with pytest.raises(Unfit, match="beside other downloads"):
            await fetched(both, Source("org/n"))
        go.set()
        while not held(tmp_path):  # noqa: ASYNC110
            await trio.sleep(0.005)
        await fetched(both, Source("org/n"))


async def test_what_another_download_has_written_is_not_counted_twice(tmp_path: Path) -> None:
    large = WEIGHTS * 4

    def free(folder: Path) -> int:
        return 2 * len(large) - sum(partials(tmp_path).values())

    async with fake_hub(m=Repo({"m.gguf": large}), n=Repo({"n.gguf": large[::-1]})) as hub:
        hub.halts["m.gguf"] = (len(large) - 1000, trio.Event())
        ours = client(hub, tmp_path, free=free)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetched, ours)
            while not sum(partials(tmp_path).values()):  # noqa: ASYNC110
                await trio.sleep(0.005)
            other = await fetched(ours, Source("org/n"))
            assert other.path.read_bytes() == large[::-1]
            nursery.cancel_scope.cancel()


async def test_a_disk_that_becomes_full_keeps_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "download aborted, partial removed, no half model visible": row 79."""
    write, left = os.pwrite, [2]

    def pwrite(descriptor: int, data: bytes, at: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:1000], at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with fake_hub(m=Repo({"m.gguf": WEIGHTS})) as hub:
        with pytest.raises(LoadFailed, match="became full") as caught:
            await fetched(client(hub, tmp_path))
    assert str(tmp_path / "cache") in caught.value.message
    assert (held(tmp_path), partials(tmp_path)) == (set(), {})


async def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    async with fake_hub(m=repo()) as hub:
        with pytest.raises(LoadFailed, match=r"cannot be made.*cache_dir"):
            await fetched(client(hub, tmp_path))


# -- leaving and meeting


async def test_a_cancelled_download_ends_at_once_and_goes_on_later(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        hub.halts[".gguf"] = (300_000, trio.Event())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetched, client(hub, tmp_path))
                await hub.halted.wait()
                # What was sent before the halt arrives; the rest never does.
                await trio.testing.wait_all_tasks_blocked(0.05)
                began = trio.current_time()
                scope.cancel()
        assert trio.current_time() - began < 1.0
        assert held(tmp_path) == set()
        (kept,) = partials(tmp_path).values()
        assert kept == 300_000
        hub.halts.clear()
        assert (await fetched(client(hub, tmp_path))).path.read_bytes() == WEIGHTS
        assert hub.asked(".gguf", "cdn")[-1].range == "bytes=300000-"


async def test_two_who_want_the_same_content_bring_it_once(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        go = trio.Event()
        hub.halts[".gguf"] = (1000, go)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                # Two hubs, as of two processes: all they share is the cache.
                nursery.start_soon(fetched, client(hub, tmp_path))
            await hub.halted.wait()
            await trio.sleep(0.3)
            go.set()
        assert len(hub.asked(".gguf", "cdn")) == 1
        assert len(hub.asked("config.json")) == 1


# -- the cache first


async def test_a_pinned_commit_that_is_here_is_not_asked_for(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        first = await fetched(client(hub, tmp_path), Source("org/m", COMMIT))
        asked = len(hub.requests)
        assert await fetched(client(hub, tmp_path), Source("org/m", COMMIT)) == first
        assert len(hub.requests) == asked


async def test_offline_only_the_cache_counts(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        error = await refused(hub, tmp_path, offline=True)
        assert isinstance(error, Unfit)
        for part in ("org/m", "[hub] offline", "cortex models pull", str(tmp_path / "cache")):
            assert part in error.message
        assert hub.requests == []
        first = await fetched(client(hub, tmp_path))
        asked = len(hub.requests)
        assert await fetched(client(hub, tmp_path, offline=True)) == first
        assert len(hub.requests) == asked


async def test_a_branch_that_moved_is_fetched_as_it_is_now(tmp_path: Path) -> None:
    async with fake_hub(m=repo()) as hub:
        ours = client(hub, tmp_path)
        await fetched(ours)
        moved = "ab" * 20
        hub.repos["org/m"].commit, hub.repos["org/m"].files["m-Q4_K_M.gguf"] = moved, WEIGHTS[::-1]
        # Known by the name of the branch as it was seen last, until somebody asks the hub again.
        cached = ours.cached(SOURCE, GGUF)
        assert cached is not None and cached.commit == COMMIT
        assert (await fetched(ours)).path.read_bytes() == WEIGHTS[::-1]
        cached = ours.cached(SOURCE, GGUF)
        assert cached is not None and cached.commit == moved
        # What did not change was not fetched again.
        assert len(hub.asked("config.json")) == 1


async def test_a_revision_is_fetched_and_found_under_its_name(tmp_path: Path) -> None:
    branch = "cd" * 20
    async with fake_hub(m=repo(commits={"refs/pr/1": branch})) as hub:
        source = Source("org/m", "refs/pr/1")
        local = await fetched(client(hub, tmp_path), source)
        assert local.commit == branch
        assert client(hub, tmp_path).cached(source, GGUF) == local
        assert client(hub, tmp_path).cached(SOURCE, GGUF) is None
        assert "has no revision 'v9'" in (await _error(client(hub, tmp_path), Source("org/m", "v9")))


async def _error(hub: Hub, source: Source) -> str:
    with pytest.raises(CortexError) as caught:
        await fetched(hub, source)
    return caught.value.message


@pytest.mark.parametrize("broken", ["../../../../etc", "a/b", "", "\udcff"])
async def test_a_damaged_reference_is_as_good_as_none(tmp_path: Path, broken: str) -> None:
    refs = tmp_path / "cache" / "models--org--m" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_bytes(broken.encode(errors="surrogateescape"))
    assert Hub(HubConfig(cache_dir=tmp_path / "cache")).cached(SOURCE, GGUF) is None


# -- which files


async def test_all_parts_of_a_split_model_come_together(tmp_path: Path) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{n}-of-00003.gguf": WEIGHTS[:n] for n in (1, 2, 3)}
    async with fake_hub(m=Repo({**parts, "m-Q4_0.gguf": WEIGHTS})) as hub:
        local = await fetched(client(hub, tmp_path), Source("org/m", pick="q8_0"))
    assert local.path.name == "m-Q8_0-00001-of-00003.gguf"
    assert sorted(path.name for path in local.path.parent.iterdir()) == sorted(
        name.partition("/")[2] for name in parts
    )
    assert local.bytes == 6


async def test_a_split_model_of_which_a_part_went_is_not_in_the_cache(tmp_path: Path) -> None:
    parts = {f"m-0000{n}-of-00002.gguf": WEIGHTS[:n] for n in (1, 2)}
    async with fake_hub(m=Repo(parts)) as hub:
        ours = client(hub, tmp_path)
        local = await fetched(ours)
        assert ours.cached(SOURCE, GGUF) == local
        (local.path.parent / "m-00002-of-00002.gguf").unlink()
        assert ours.cached(SOURCE, GGUF) is None


async def test_safetensors_come_with_all_shards_and_what_describes_them(tmp_path: Path) -> None:
    index = (
        b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    shards = {f"model-0000{n}-of-00002.safetensors": WEIGHTS[:n] for n in (1, 2)}
    files = {**SMALL, **shards, "model.safetensors.index.json": index, "consolidated.safetensors": WEIGHTS}
    async with fake_hub(m=Repo({**files, "original/x.safetensors": WEIGHTS})) as hub:
        ours = client(hub, tmp_path)
        local = await fetched(ours, formats=("safetensors",))
        assert ours.cached(SOURCE, ("safetensors",)) == local
        assert {path.name for path in local.path.iterdir()} == {
            *shards,
            "model.safetensors.index.json",
            "config.json",
        }
        assert (local.path, local.bytes) == (tmp_path / f"cache/models--org--m/snapshots/{COMMIT}", 3)
        (local.path / "model-00002-of-00002.safetensors").unlink()
        assert ours.cached(SOURCE, ("safetensors",)) is None


async def test_an_index_of_other_weights_does_not_say_what_is_missing(tmp_path: Path) -> None:
    """Quants lie beside the index of the weights that they were made of."""
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    files = {**SMALL, "output.safetensors": WEIGHTS, "model.safetensors.index.json": index}
    async with fake_hub(m=Repo(files)) as hub:
        ours = client(hub, tmp_path)
        local = await fetched(ours, formats=("safetensors",))
        assert ours.cached(SOURCE, ("safetensors",)) == local
