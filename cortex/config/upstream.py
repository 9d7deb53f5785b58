"""What `[harness.upstream]` of neuron.toml says: which engines elsewhere, and how to ask them.

The key is read here, from a variable or a file, and shows in no repr. It is for the origins of
`endpoints`; an address that only models.toml names gets none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from cortex.config.reading import Document, Values, fill
from cortex.config.tokens import read_token, read_variable

Kind: TypeAlias = Literal["openai", "vllm", "sglang", "llamacpp", "tabbyapi", "ollama", "cortex"]
AT: Final = ("harness", "upstream")


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """`kind` is what an engine is taken for that does not say. Seconds; `slots` are requests at
    once for one model."""

    endpoints: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    kind: Kind = "openai"
    slots: int = 16
    connect_s: float = 2.0
    first_token_s: float = 120.0
    stall_s: float = 60.0
    look_s: float = 5.0


def check_upstream(said: Values, document: Document, env: Mapping[str, str]) -> Values:
    """The table with its key read."""
    values = {name: value for name, value in said.items() if name not in ("api_key_env", "api_key_file")}
    if "api_key_env" in said and "api_key_file" in said:
        document.found.fault((*AT, "api_key_file"), "says the same as api_key_env; keep one")
    elif "api_key_env" in said:
        values["api_key"] = read_variable(said["api_key_env"], (*AT, "api_key_env"), document.found, env)
    elif "api_key_file" in said:
        path = document.folder / said["api_key_file"]
        values["api_key"] = read_token(path, (*AT, "api_key_file"), document.found, least=1)
    if values.get("api_key") and not said.get("endpoints"):
        document.found.fault(
            (*AT, "endpoints"), "is empty, and a key is given: it is sent to the endpoints, and nowhere else"
        )
    return values


def upstream_of(values: Values) -> UpstreamConfig:
    """The configuration of a table without a fault."""
    return fill(UpstreamConfig, values)
