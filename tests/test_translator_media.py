"""Pictures in all three dialects: where they may stand, what of them is taken, how they are told on."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cortex.ask import Ask, Image, Message
from cortex.errors import BadAsk, Unsupported
from cortex.translator import anthropic_messages, media, openai_chat, openai_responses
from cortex.translator.openai_manners import CORTEX
from cortex.translator.openai_write import write
from tests.pictures import KINDS, MOVING, distinct, picture, png, text, url

Parts = list[dict[str, Any]]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


class Chat:
    """The chat's words for what each dialect says in its own."""

    place, field = "messages[{turn}].content[{part}]", ".image_url.url"
    result = "messages[2].content[{part}]"

    def read(self, turns: list[dict[str, Any]]) -> Ask:
        return openai_chat.read(json.dumps({"model": "m", "messages": turns}).encode())

    def text(self, said: str) -> dict[str, Any]:
        return {"type": "text", "text": said}

    def image(self, source: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": source}}

    def said(self, role: str, parts: Parts) -> list[dict[str, Any]]:
        return [{"role": role, "content": parts}]

    def answered(self, parts: Parts) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "c1", "content": parts},
        ]


class Messages(Chat):
    place, field = "messages[{turn}].content[{part}]", ".source.data"
    result = "messages[2].content[0].content[{part}]"

    def read(self, turns: list[dict[str, Any]]) -> Ask:
        return anthropic_messages.read(json.dumps({"model": "m", "messages": turns}).encode())

    def image(self, source: str) -> dict[str, Any]:
        head, comma, data = source.partition(";base64,")
        if not comma:
            return {"type": "image", "source": {"type": "url", "url": source}}
        said = {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
        return {"type": "image", "source": said}

    def answered(self, parts: Parts) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": parts}],
            },
        ]


class Responses(Chat):
    place, field = "input[{turn}].content[{part}]", ".image_url"
    result = "input[2].output[{part}]"

    def read(self, turns: list[dict[str, Any]]) -> Ask:
        return openai_responses.read(json.dumps({"model": "m", "input": turns}).encode())

    def text(self, said: str) -> dict[str, Any]:
        return {"type": "input_text", "text": said}

    def image(self, source: str) -> dict[str, Any]:
        return {"type": "input_image", "image_url": source}

    def answered(self, parts: Parts) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "go"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": parts},
        ]


ALL = [Chat(), Messages(), Responses()]
every = pytest.mark.parametrize("dialect", ALL, ids=lambda each: type(each).__name__)


def refused(read: Callable[[], Ask], kind: type[BadAsk] = BadAsk) -> BadAsk:
    with pytest.raises(BadAsk) as caught:
        read()
    assert type(caught.value) is kind, caught.value.message
    assert caught.value.param and caught.value.param in caught.value.message
    return caught.value


# -- where they stand


@every
def test_pictures_stand_where_they_stood_between_the_texts(dialect: Chat) -> None:
    parts = [
        dialect.image(url(distinct(0))),
        dialect.text("one "),
        dialect.image(url(distinct(1))),
        dialect.image(url(distinct(2))),
        dialect.text("two"),
        dialect.text("three"),
        dialect.image(url(distinct(3))),
    ]
    (turn,) = dialect.read(dialect.said("user", parts)).messages
    assert turn.text == "one twothree"
    assert [(image.data, image.at) for image in turn.images] == [
        (text(distinct(number)), at) for number, at in enumerate((0, 4, 4, 12))
    ]
    assert [image.place for image in turn.images] == [
        dialect.place.format(turn=0, part=part) for part in (0, 2, 3, 6)
    ]


@every
def test_what_a_tool_shows_is_its_results(dialect: Chat) -> None:
    """clients.md 2.1: Claude Code's pictures come so."""
    ask = dialect.read(dialect.answered([dialect.text("seen"), dialect.image(url())]))
    (image,) = ask.messages[2].images
    assert (ask.messages[2].role, ask.messages[2].text, image.at) == ("tool", "seen", 4)
    assert image.place == dialect.result.format(part=1)
    assert ask.images == (image,)


@every
@pytest.mark.parametrize("role", ["assistant", "system"])
def test_nobody_else_shows_pictures(dialect: Chat, role: str) -> None:
    error = refused(lambda: dialect.read(dialect.said(role, [dialect.image(url())])), Unsupported)
    assert error.param == dialect.place.format(turn=0, part=0) and "users and from tools" in error.message


def test_pictures_are_none_of_a_system_prompts() -> None:
    body = {"model": "m", "system": [Messages().image(url())], "messages": [{"role": "user", "content": "a"}]}
    error = refused(lambda: anthropic_messages.read(json.dumps(body).encode()), Unsupported)
    assert error.param == "system[0]"


# -- what is taken


@every
@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_picture_is_passed_on_byte_for_byte_as_what_it_is(dialect: Chat, name: str, kind: str) -> None:
    """Whatever its label says: many clients have one label for all."""
    ask = dialect.read(dialect.said("user", [dialect.image(url(picture(name), "image/jpeg"))]))
    assert ask.images == (Image(kind, text(picture(name))),)


HOSTILE: dict[str, tuple[str, type[BadAsk], str]] = {
    "no base64": ("data:image/png;base64,****", BadAsk, "base64"),
    "padding within": (f"data:image/png;base64,{text(b'a')}{text(picture())}", BadAsk, "base64"),
    "no padding": (url(png(1, 1)).rstrip("="), BadAsk, "base64"),
    "lines": (f"{url()[:60]}\n{url()[60:]}", BadAsk, "base64"),
    "other alphabet": ("data:image/png;base64,____", BadAsk, "base64"),
    "not ASCII": ("data:image/png;base64,\u00e4\u00e4\u00e4\u00e4", BadAsk, "base64"),
    "bad behind the first piece": (f"{url(png(1, 1, rest=400_000))[:-4]}****", BadAsk, "base64"),
    "padding at the end of a piece": (
        f"data:image/png;base64,{text(png(1, 1, rest=400_000))[: 2**18 - 2]}=={text(picture())}",
        BadAsk,
        "base64",
    ),
    "a broken header": (url(picture()[:20]), BadAsk, "breaks off"),
    "no size": (url(png(0, 5)), BadAsk, "breaks off"),
    "no picture": (url(b"hello world."), BadAsk, "PNG, JPEG, GIF or WebP"),
    "a program": (url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), BadAsk, "PNG"),
    "a bomb": (url(png(65_535, 65_535)), BadAsk, "65535x65535"),
    "a long bomb": (url(png(2**31 - 1, 1)), BadAsk, "million pixels"),
    "just too many pixels": (url(png(8000, 4001)), BadAsk, "million pixels"),
    "too many bytes": (url(png(9, 9, rest=media.MOST_BYTES)), BadAsk, "20 MiB"),
    **{f"moves: {name}": (url(picture(name)), BadAsk, "follow each other") for name in MOVING},
}


@every
@pytest.mark.parametrize("case", HOSTILE)
def test_a_picture_that_cannot_be_borne_is_refused_at_its_place(dialect: Chat, case: str) -> None:
    """Fault 52."""
    source, kind, words = HOSTILE[case]
    parts = [dialect.text("see"), dialect.image(source)]
    error = refused(lambda: dialect.read(dialect.said("user", parts)), kind)
    assert error.param == dialect.place.format(turn=0, part=1) + dialect.field
    assert words in error.message and error.reason == "media"
    assert len(error.message) < 300, "the data is not told back"


@every
def test_what_is_just_bearable_is_taken(dialect: Chat) -> None:
    for data in (png(8000, 4000), png(32_000_000, 1), png(9, 9, rest=media.MOST_BYTES - 64)):
        assert dialect.read(dialect.said("user", [dialect.image(url(data))])).images


ELSEWHERE = [
    "http://example.com/a.png",
    "https://example.com/a.png",
    "HTTPS://EXAMPLE.COM/A.PNG",
    "ftp://example.com/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    "http:\\\\169.254.169.254\\",
    "//169.254.169.254/",
    " data:image/png,base64",
    "\tdata:image/png",
    "gopher://127.0.0.1:6379/_",
    "blob:null/1",
]


@every
@pytest.mark.parametrize("address", ELSEWHERE)
def test_nothing_is_ever_fetched(dialect: Chat, address: str) -> None:
    """Fault 51."""
    error = refused(lambda: dialect.read(dialect.said("user", [dialect.image(address)])), Unsupported)
    assert "nothing is fetched" in error.message and error.reason == "ssrf"
    assert "169.254" not in error.message and "passwd" not in error.message


@pytest.mark.parametrize("dialect", [ALL[0], ALL[2]], ids=["Chat", "Responses"])
@pytest.mark.parametrize(
    "address",
    [
        "data:",
        "data:,hi",
        f"data:;base64,{text(picture())}",
        f"data:text/html;base64,{text(picture())}",
        "data:image/png,rawbytes",
        f"data:image/png;base64 {text(picture())}",
        f"data:image/png;{'a' * 300};base64,{text(picture())}",
    ],
)
def test_a_data_url_that_is_none_of_a_picture_is_refused(dialect: Chat, address: str) -> None:
    """Fault 52."""
    error = refused(lambda: dialect.read(dialect.said("user", [dialect.image(address)])))
    assert "data:image/png;base64" in error.message and error.reason == "media"


@pytest.mark.parametrize("address", ["DATA:IMAGE/PNG;BASE64,", "data:image/png;name=a.png;base64,"])
def test_a_data_url_is_known_in_all_its_spellings(address: str) -> None:
    assert Chat().read(Chat().said("user", [Chat().image(address + text(picture()))])).images


@pytest.mark.parametrize(
    ("source", "param"),
    [
        (None, ".source"),
        ("a text", ".source"),
        ({"type": "base64"}, ".source.media_type"),
        ({"type": "base64", "media_type": "text/plain", "data": text(picture())}, ".source.media_type"),
        ({"type": "base64", "media_type": "image/png"}, ".source.data"),
        ({"type": "url"}, ".source.url"),
        ({"type": "file", "file_id": "f"}, ".source"),
        ({"type": "unheard_of"}, ".source"),
    ],
)
def test_a_source_without_a_picture_is_refused(source: Any, param: str) -> None:
    block = {"type": "image", "source": source}
    turns = Messages().said("user", [block])
    with pytest.raises(BadAsk) as caught:
        Messages().read(turns)
    assert caught.value.param == f"messages[0].content[0]{param}"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({}, ".image_url"),
        ({"image_url": None}, ".image_url"),
        ({"image_url": ""}, ".image_url"),
        ({"image_url": {}}, ".image_url.url"),
    ],
)
def test_a_part_without_a_picture_is_refused(part: dict[str, Any], param: str) -> None:
    error = refused(lambda: Chat().read(Chat().said("user", [{"type": "image_url", **part}])))
    assert error.param == f"messages[0].content[0]{param}"


def test_a_picture_that_is_kept_elsewhere_is_refused() -> None:
    part = {"type": "input_image", "file_id": "file-1"}
    error = refused(lambda: Responses().read(Responses().said("user", [part])), Unsupported)
    assert error.param == "input[0].content[0].file_id"


def test_some_clients_send_a_chats_picture_as_a_bare_text() -> None:
    part = {"type": "image_url", "image_url": url()}
    assert Chat().read(Chat().said("user", [part])).images[0].media_type == "image/png"


@pytest.mark.parametrize("word", media.DETAILS)
def test_how_closely_to_look_is_passed_on(word: str) -> None:
    chat = {"type": "image_url", "image_url": {"url": url(), "detail": word}}
    assert Chat().read(Chat().said("user", [chat])).images[0].detail == word
    item = {"type": "input_image", "image_url": url(), "detail": word}
    assert Responses().read(Responses().said("user", [item])).images[0].detail == word


def test_a_detail_that_nobody_knows_is_refused() -> None:
    chat = {"type": "image_url", "image_url": {"url": url(), "detail": "original"}}
    error = refused(lambda: Chat().read(Chat().said("user", [chat])), Unsupported)
    assert error.param == "messages[0].content[0].image_url.detail"
    item = {"type": "input_image", "image_url": url(), "detail": "original"}
    error = refused(lambda: Responses().read(Responses().said("user", [item])), Unsupported)
    assert error.param == "input[0].content[0].detail"


@every
def test_a_request_has_sixteen_pictures_at_most(dialect: Chat) -> None:
    """Fault 52. In one turn, or over many."""
    images = [dialect.image(url()) for _ in range(17)]
    assert len(dialect.read(dialect.said("user", images[:16])).images) == 16
    error = refused(lambda: dialect.read(dialect.said("user", images)))
    assert error.param == dialect.place.format(turn=0, part=16) and error.reason == "media"
    spread = [turn for image in images for turn in dialect.said("user", [image])]
    assert refused(lambda: dialect.read(spread)).param == dialect.place.format(turn=16, part=0)


# -- what is no picture


@pytest.mark.parametrize(
    ("part", "dialect"),
    [
        ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, ALL[0]),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,"}},
            ALL[0],
        ),
        ({"type": "file", "file": {"file_id": "f"}}, ALL[0]),
        ({"type": "video_url", "video_url": {"url": "http://a/"}}, ALL[0]),
        ({"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}, ALL[1]),
        ({"type": "document", "source": {"type": "url", "url": "http://a/a.pdf"}}, ALL[1]),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, ALL[1]),
        ({"type": "document", "source": {"type": "content", "content": "a"}}, ALL[1]),
        ({"type": "search_result", "source": "http://a/", "title": "a", "content": []}, ALL[1]),
        ({"type": "input_file", "file_data": "data:application/pdf;base64,"}, ALL[2]),
        ({"type": "input_audio", "input_audio": {"data": "UklGRg=="}}, ALL[2]),
    ],
)
def test_documents_files_and_sounds_are_refused_with_what_to_send(part: Any, dialect: Chat) -> None:
    error = refused(lambda: dialect.read(dialect.said("user", [dialect.text("a"), part])), Unsupported)
    assert error.param == dialect.place.format(turn=0, part=1)
    assert part["type"] in error.message and "send" in error.message


def test_a_document_of_plain_text_is_its_text_below_its_title_and_context() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "line"}
    whole = {"type": "document", "source": source, "title": "T", "context": "C", "citations": None}
    bare = {"type": "document", "source": {**source, "data": "x\n"}, "citations": {"enabled": False}}
    (turn,) = Messages().read(Messages().said("user", [whole, bare, {"type": "text", "text": "?"}])).messages
    assert turn == Message("user", "T\nC\nline\nx\n?")
    cited = {**bare, "citations": {"enabled": True}}
    error = refused(lambda: Messages().read(Messages().said("user", [cited])), Unsupported)
    assert error.param == "messages[0].content[0].citations"


def test_an_error_that_shows_a_picture_is_not_silent() -> None:
    turns = Messages().answered([Messages().image(url())])
    turns[2]["content"][0]["is_error"] = True
    assert Messages().read(turns).messages[2].text == ""


# -- how they are told on


def told(ask: Ask) -> list[Any]:
    found: list[Any] = json.loads(write(ask, "m", CORTEX))["messages"]
    return found


def shown(number: int, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(distinct(number)), **more}}


def image(number: int, at: int = 0, detail: str | None = None) -> Image:
    return Image("image/png", text(distinct(number)), at, detail)


def test_pictures_are_data_urls_between_the_texts() -> None:
    turn = Message("user", "onetwo", images=(image(0), image(1, 3, "low"), image(2, 3), image(3, 6)))
    assert told(Ask("m", (turn,))) == [
        {
            "role": "user",
            "content": [
                shown(0),
                {"type": "text", "text": "one"},
                shown(1, detail="low"),
                shown(2),
                {"type": "text", "text": "two"},
                shown(3),
            ],
        }
    ]


def test_what_tools_show_begins_the_next_turn_of_the_user() -> None:
    """A chat's tool messages hold text alone, and stand together behind their calls."""
    one = Message("tool", "a", tool_call_id="c1", images=(image(0, 1),))
    two = Message("tool", "", tool_call_id="c2", images=(image(1),))
    said = Message("user", "and?", images=(image(2), image(3, 4)))
    assert told(Ask("m", (one, two, said)))[2] == {
        "role": "user",
        "content": [shown(0), shown(1), shown(2), {"type": "text", "text": "and?"}, shown(3)],
    }
    assert [turn["content"] for turn in told(Ask("m", (one, two, said)))[:2]] == ["a", ""]


@pytest.mark.parametrize(
    "after",
    [(), (Message("assistant", "b"),), (Message("user", "c", name="ann"),), (Message("system", "s"),)],
)
def test_what_tools_show_is_a_turn_of_its_own_where_no_user_speaks_next(after: tuple[Message, ...]) -> None:
    one = Message("tool", "a", tool_call_id="c1", images=(image(0),))
    turns = told(Ask("m", (one, *after)))
    assert turns[1] == {"role": "user", "content": [shown(0)]}
    assert [turn["content"] for turn in turns[2:]] == [turn.text for turn in after]


@every
def test_what_is_told_in_chat_is_what_was_said(dialect: Chat) -> None:
    """A neuron that speaks chat alone is asked so."""
    parts = [dialect.image(url(distinct(0))), dialect.text("one"), dialect.image(url(distinct(1)))]
    heard = dialect.read([*dialect.said("user", parts), *dialect.said("user", [dialect.text("b")])])
    again = openai_chat.read(write(heard, "m", CORTEX))
    assert again.messages == heard.messages


@every
def test_pictures_of_tools_are_told_in_their_order_and_none_is_lost(dialect: Chat) -> None:
    turns = [
        *dialect.answered(
            [dialect.image(url(distinct(0))), dialect.text("x"), dialect.image(url(distinct(1)))]
        ),
        *dialect.said("user", [dialect.text("y"), dialect.image(url(distinct(2)))]),
    ]
    heard = dialect.read(turns)
    again = openai_chat.read(write(heard, "m", CORTEX))
    assert [image.data for image in again.images] == [text(distinct(number)) for number in range(3)]
    assert [turn.text for turn in again.messages] == [turn.text for turn in heard.messages]
    assert [turn.role for turn in again.messages] == ["user", "assistant", "tool", "user"]


# -- who is not shown them


def test_a_refusal_names_the_first_picture_and_who_would_see_it() -> None:
    images = (replace(image(0), place="messages[3].content[1]"), image(1))
    error = media.unseen(images, "m", upstream=False, seers=("a", "b"))
    assert (error.param, error.code, error.reason) == (
        "messages[3].content[1]",
        "unsupported_parameter",
        "media",
    )
    assert "Ask a or b instead" in error.message and "llama.cpp" in error.message
    alone = media.unseen(images, "m", upstream=True)
    assert 'add "vision" to its capabilities' in alone.message and "GET /v1/models" in alone.message


def test_a_pictures_data_is_in_no_log() -> None:
    ask = Chat().read(Chat().said("user", [Chat().image(url())]))
    assert text(picture()) not in repr(ask) and "image/png" in repr(ask)
