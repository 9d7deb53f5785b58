"""Knows what the value of a key may look like.

A kind has a word for the documentation, a reader from a plain TOML value to the value
that the program uses, and a JSON Schema for editors, which never refuses what the reader
takes. A reader raises ValueError saying what the value must be; where it stands is the
caller's knowledge. Secrets are never echoed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeVar

from cortex.ask import Json
from cortex.catalogue import HUB, valid_id
from cortex.catalogue import PATH as PATH_SOURCE
from cortex.config.network import Address, Network, read_address, read_endpoint, read_host, read_origin
from cortex.units import SIZE_PATTERN, SPAN_PATTERN, parse_size, parse_span

Amount = TypeVar("Amount", int, float)

# A span beyond this is a slip of units; trio's clock would take it.
YEAR_S: Final = 366 * 86400.0
# The largest size that every reader of our JSON keeps exact.
MOST_BYTES: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """`literal`: an environment variable gives it as TOML writes it, not as bare text."""

    word: str
    read: Callable[[object], object]
    literal: bool = False
    schema: Mapping[str, Json] = field(default_factory=lambda: {"type": "string", "minLength": 1}, hash=False)


def text_of(value: object) -> str:
    """The text that `value` is."""
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, not {form(value)}")
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def form(value: object) -> str:
    """What a plain value is, in the words of TOML."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case None:
            return "null"
    return "a date or time"


def _matching(pattern: str) -> dict[str, Json]:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def texts(word: str, pattern: str, must: str) -> Kind:
    """Text that `pattern` matches whole; `must` ends the sentence 'must be ...'."""
    compiled = re.compile(rf"(?:{pattern})\Z")

    def read(value: object) -> str:
        text = text_of(value)
        if not compiled.match(text):
            raise ValueError(f"must be {must}, not {text!r}")
        return text

    return Kind(word, read, schema=_matching(pattern))


def one_of(*names: str) -> Kind:
    """One of a closed set of words."""
    kind = texts(" or ".join(names), "|".join(map(re.escape, names)), " or ".join(map(repr, names)))
    return replace(kind, schema={"enum": list(names)})


def whole(low: int, high: int) -> Kind:
    """An integer within both bounds."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, not {form(value)}")
        return _within(value, low, high)

    bounds: dict[str, Json] = {"type": "integer", "minimum": low, "maximum": high}
    return Kind(f"whole number, {low} to {high}", read, literal=True, schema=bounds)


def multiples(of: int, high: int) -> Kind:
    """A whole number of times `of`, at least once and at most `high`."""
    bounded = whole(of, high)

    def read(value: object) -> object:
        count = bounded.read(value)
        if isinstance(count, int) and count % of:
            raise ValueError(f"must be a multiple of {of}, not {count}; {count // of * of} is one")
        return count

    schema = {**bounded.schema, "multipleOf": of}
    return Kind(f"multiple of {of}, to {high}", read, literal=True, schema=schema)


def number(low: float, high: float) -> Kind:
    """A number within both bounds; whole ones become floats."""

    def read(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"must be a number, not {form(value)}")
        return _within(float(value), low, high)

    bounds: dict[str, Json] = {"type": "number", "minimum": low, "maximum": high}
    return Kind(f"number, {_plain(low)} to {_plain(high)}", read, literal=True, schema=bounds)


def sizes(low: int = 0) -> Kind:
    """Bytes: a whole number, or text such as "24GiB"."""

    def read(value: object) -> int:
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise ValueError(f'must be a size such as "24GiB", not {form(value)}')
        return _within(parse_size(value), low, MOST_BYTES)

    count: dict[str, Json] = {"type": "integer", "minimum": low, "maximum": MOST_BYTES}
    return Kind("size", read, schema={"anyOf": [count, _matching(SIZE_PATTERN)]})


def spans(low: float = 0.0, high: float = YEAR_S) -> Kind:
    """Seconds: a number, or text such as "5m"."""

    def read(value: object) -> float:
        if not isinstance(value, int | float | str) or isinstance(value, bool):
            raise ValueError(f'must be seconds or a span such as "5m", not {form(value)}')
        return _within(parse_span(value), low, high)

    count: dict[str, Json] = {"type": "number", "minimum": low, "maximum": high}
    return Kind("span", read, schema={"anyOf": [count, _matching(SPAN_PATTERN)]})


def _within(value: Amount, low: Amount, high: Amount) -> Amount:
    # Written so that a NaN is outside.
    if not low <= value <= high:
        raise ValueError(f"must be {_plain(low)} to {_plain(high)}, not {value!r}")
    return value


def _plain(bound: float) -> str:
    return str(bound).removesuffix(".0")


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {form(value)}")
    return value


def _path(value: object) -> Path:
    text = text_of(value)
    if not text:
        raise ValueError("must be a path, not empty text")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r} begins with ~ and nothing says whose home that is") from None


def _network(value: object) -> Network:
    text = text_of(value)
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be a network such as 10.0.0.0/8 or fd00::/8: {error}") from None


def _model(value: object) -> str:
    text = text_of(value)
    if not valid_id(text):
        raise ValueError(
            f"must be a model id: a letter or digit, then up to 127 letters, digits and ._:/- "
            f"without a '..' segment, not {text!r}"
        )
    return text


def _sha256(value: object) -> str:
    text = text_of(value)
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        # Not echoed: the likeliest slip is the key itself in place of its digest.
        raise ValueError("must be the SHA-256 digest of the key, 64 hex digits; `cortex keys new` prints it")
    return text.lower()


def _source(value: object) -> str:
    text = text_of(value)
    url, _, _ = text.removeprefix(_ELSEWHERE).partition("#")
    unasked = text.startswith(_ELSEWHERE) and not _can_be_asked(url)
    if unasked or not _SOURCE.match(text) or (text.startswith("hf:") and ".." in re.split("[/:@]", text)):
        raise ValueError(
            "must be hf:org/name[@revision][:file-or-quant], path:/absolute/path "
            "or upstream:http://host:port/v1[#name-there]"
        )
    return text


def _draft(value: object) -> str:
    text = text_of(value)
    if not valid_id(text) and not (text.startswith((HUB, PATH_SOURCE)) and _SOURCE.match(text)):
        raise ValueError(
            f"must be the id of a model, or hf:org/name or path:/absolute/folder of one, not {text!r}"
        )
    return text


def _upstream_url(text: str) -> str:
    return _url(text, "an OpenAI-compatible API, such as http://gpu-1:8000/v1")


def _hub_url(text: str) -> str:
    return _url(text, "a hub or a mirror, such as https://huggingface.co")


def _url(text: str, whose: str) -> str:
    if not _can_be_asked(text):
        # Not echoed: it may hold a password.
        raise ValueError(f"must be the URL of {whose}")
    return text.rstrip("/")


def _can_be_asked(url: str) -> bool:
    """Whether it has a host that a resolver takes, a port and a path. Without a user or a query,
    which would be a secret in a file."""
    found = _URL.fullmatch(url)
    if found is None or int(found["port"] or "1") > 65535:
        return False
    try:
        return found["v6"] is None or bool(IPv6Address(found["v6"]))
    except ValueError:
        return False


def _nameserver(value: object) -> Address:
    address = read_address(text_of(value))
    try:
        ip_address(address.host)
    except ValueError:
        raise ValueError("must be the IP address and port of a name server, such as 10.96.0.10:53") from None
    if not address.port:
        raise ValueError("needs the port of the name server, which is 53 as a rule, not 0")
    return address


def _token_id(value: object) -> int:
    text = text_of(value)
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", text):
        raise ValueError(f"must be a token id, a whole number in quotes, not {text!r}")
    return int(text)


def _group(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError('must be a list of at least two devices, such as ["cuda:0", "cuda:1"]')
    devices = tuple(str(DEVICE.read(item)) for item in value)
    if "cpu" in devices:
        raise ValueError("must be CUDA devices: no model is spread over the CPU and a GPU")
    return devices


_ELSEWHERE: Final = "upstream:"
_LABEL: Final = r"[A-Za-z0-9_-]{1,63}"
_URL: Final = re.compile(
    rf"https?://(?:{_LABEL}(?:\.{_LABEL})*\.?|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?:/[!\"$->A-~]*)?"  # printable ASCII but # ? @
)
_PART: Final = r"[A-Za-z0-9][\w.-]*"
_LONG: Final = r"[A-Za-z0-9][\w./-]*"
_SOURCE: Final = re.compile(
    rf"hf:{_PART}/{_PART}(?:@{_LONG})?(?::{_LONG})?\Z"
    r"|path:/.*\Z"
    r"|upstream:https?://[^\s/@?#]+(?:/[^\s@?#]*)?(?:#[^\s#]{1,256})?\Z",
    re.ASCII,
)

FLAG: Final = Kind("flag", _flag, literal=True, schema={"type": "boolean"})
PATH: Final = Kind("path", _path)
ADDRESS: Final = Kind(
    "address", lambda value: read_address(text_of(value)), schema=_matching(r".+:[0-9]{1,5}")
)
ENDPOINT: Final = Kind(
    "URL", lambda value: read_endpoint(text_of(value)), schema=_matching(r"[Hh][Tt][Tt][Pp]://[^/@?#\s]+/?")
)
NAMESERVER: Final = Kind("address", _nameserver, schema=_matching(r".+:[0-9]{1,5}"))
# Of a service rather than a host: labels may begin with an underscore.
SERVICE: Final = texts(
    "DNS name",
    rf"(?![0-9.]+$)(?=.{{1,254}}$){_LABEL}(?:\.{_LABEL})*\.?",
    "a DNS name such as _cortex._tcp.example.com",
)
HOST: Final = Kind("host name", lambda value: read_host(text_of(value)))
NETWORK: Final = Kind("network", _network, schema=_matching(r"[0-9A-Fa-f:.]+(?:%[^/]+)?(?:/[0-9A-Fa-f:.]+)?"))
MODEL: Final = Kind(
    "model id",
    _model,
    schema=_matching(r"(?!(?:.*/)?\.\.(?:/|$))[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"),
)
SOURCE: Final = Kind("source", _source, schema=_matching(_SOURCE.pattern.replace(r"\Z", "")))
SHA256: Final = Kind("digest", _sha256, schema=_matching("[0-9A-Fa-f]{64}"))
# Names become labels of metrics and header values.
NAME: Final = texts("name", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a name of letters, digits and ._-")
REVISION: Final = texts(
    "revision", r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", "a branch, a tag or a commit"
)
ISOLATION: Final = one_of("thread", "process")
DRAFT: Final = Kind("model id or source", _draft)
FOLDER: Final = texts("absolute path", r"/.*", "an absolute path")
ORIGIN: Final = Kind("origin", lambda value: read_origin(text_of(value)))
DEVICE: Final = texts("device", r"cpu|cuda:[0-9]{1,3}", "a device such as 'cpu' or 'cuda:0'")
GROUP: Final = Kind(
    "list of devices",
    _group,
    schema={"type": "array", "minItems": 2, "items": _matching("cuda:[0-9]{1,3}")},
)
TOKEN_ID: Final = Kind("token id", _token_id, schema=_matching("0|[1-9][0-9]{0,8}"))
# Mirrors live below paths and behind TLS.
HUB_URL: Final = Kind("URL", lambda value: _hub_url(text_of(value)), schema=_matching("https?://.+"))
VARIABLE: Final = texts("variable", r"[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of an environment variable")
UPSTREAM_URL: Final = Kind(
    "URL", lambda value: _upstream_url(text_of(value)), schema=_matching("https?://.+")
)
