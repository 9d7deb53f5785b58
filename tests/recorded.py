"""What clients were seen to send, and what becomes of it: read into an `Ask`, written for other engines.

Each client has its requests in `golden/recorded/CLIENT.jsonl`, one a line, long texts cut, ids masked
and repeats left out, and beside them what cortex makes of them in `CLIENT.asks`, to be read by people.
Where that is meant to change, `python -m tests.recorded` writes it anew, and the difference is looked at.

Fields that say nothing are left out, long texts end in their length and digest, and a list of
tools that stood there before is named by the request that had it first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from cortex.ask import Ask
from cortex.errors import CortexError
from cortex.translator.dialects import CHAT, DIALECTS, Dialect
from cortex.translator.openai_manners import CORTEX, OPENAI, VLLM, Manner
from cortex.translator.openai_write import write

FOLDER: Final = Path(__file__).parent / "golden" / "recorded"
_LONG: Final = 90
_COUNTS: Final = "/count_tokens"


@dataclass(frozen=True)
class Recorded:
    """One request. `dialect` is None for what is in none that is known."""

    client: str
    scenario: str
    n: int
    path: str
    body: bytes

    @property
    def name(self) -> str:
        return f"{self.scenario} {self.n} {self.path}"

    @property
    def dialect(self) -> Dialect | None:
        path = self.path.removesuffix(_COUNTS)
        return next((dialect for dialect in DIALECTS if dialect.path == path), None)


def clients() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def requests(client: str) -> list[Recorded]:
    """All of that client's that are in a dialect."""
    found = []
    for line in (FOLDER / f"{client}.jsonl").read_text().splitlines():
        said = json.loads(line)
        body = json.dumps(said["body"], ensure_ascii=False).encode()
        found.append(Recorded(client, said["scenario"], said["n"], said["path"], body))
    return [one for one in found if one.dialect is not None]


def told(client: str) -> str:
    """What becomes of all of that client's requests."""
    seen: dict[str, str] = {}
    return "\n".join("\n".join(_request(one, seen)) + "\n" for one in requests(client))


def _request(one: Recorded, seen: dict[str, str]) -> Iterator[str]:
    yield f"=== {one.name}"
    assert one.dialect is not None
    try:
        ask = one.dialect.read(one.body)
    except CortexError as error:
        yield _refusal(error)
        return
    said = {name: value for name, value in _plain(ask).items() if name not in ("messages", "tools")}
    yield f"ask {_line(said)}"
    yield from (f"  turn {_line(_plain(turn))}" for turn in ask.messages)
    yield from _tools([_plain(tool) for tool in ask.tools], "tools", one, seen)
    if not ask.messages and ask.prompt is None:
        return  # of vectors, which are asked for in one way alone
    if one.dialect is not CHAT and not one.path.endswith(_COUNTS):
        yield from _written(ask, CORTEX, one, seen)
    yield from _written(ask, VLLM, one, seen)
    yield from _written(ask, OPENAI, one, seen)


def _written(ask: Ask, manner: Manner, one: Recorded, seen: dict[str, str]) -> Iterator[str]:
    try:
        body = json.loads(write(ask, "there", manner))
    except CortexError as error:
        yield f"for {manner.kind}: {_refusal(error)}"
        return
    turns, tools = body.pop("messages", []), body.pop("tools", [])
    lines = [f"  turn {_line(turn)}" for turn in turns]
    text = "\n".join(lines)
    yield f"for {manner.kind} {_line(body)}"
    if seen.get("turns") == text:
        yield "  turns as before"
    else:
        yield from lines
    seen["turns"] = text
    yield from _tools([tool["function"] for tool in tools], "written", one, seen)


def _tools(tools: list[Any], kind: str, one: Recorded, seen: dict[str, str]) -> Iterator[str]:
    lines = [f"  tool {_line(tool)}" for tool in tools]
    text = "\n".join([kind, *lines])
    if text in seen:
        yield f"  {len(tools)} tools as in {seen[text]}"
    elif tools:
        seen[text] = one.name
        yield from lines


def _refusal(error: CortexError) -> str:
    return f"refused, {error.status} {error.code} {error.param}: {error.message}"


def _plain(value: Any) -> Any:
    """`value` as JSON, without the fields that say nothing."""
    if is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _line(value: Any) -> str:
    return json.dumps(_brief(value), ensure_ascii=False)


def _brief(value: Any, name: str = "") -> Any:
    if isinstance(value, str) and len(value) > _LONG:
        return f"{value[: _LONG // 2]} … {len(value)} #{_digest(value)}"
    if name in ("parameters", "schema") and len(json.dumps(value)) > _LONG:
        return f"{', '.join(value.get('properties', value))} #{_digest(json.dumps(value))}"
    if isinstance(value, dict):
        return {key: _brief(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_brief(each) for each in value]
    return value


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()


def strays(text: str) -> list[str]:
    """What in `text` tells of the machine that it was recorded on, or of somebody's key."""
    return re.findall(r"/(?:home|root|Users|work|opt)/\S*|\bsk-[A-Za-z0-9_-]{8,}|[\w.+-]+@[\w-]+\.\w+", text)


if __name__ == "__main__":
    for each in clients():
        (FOLDER / f"{each}.asks").write_text(told(each))
