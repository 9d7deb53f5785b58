"""The section [hub] of neuron.toml: where models come from and where they are kept.

What is not said here, huggingface_hub's own environment says (HF_ENDPOINT, HF_HUB_CACHE,
HF_HOME, HF_TOKEN, HF_HUB_OFFLINE): `cortex.hub` asks it. The token itself is in no file of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from cortex.config.reading import Document, Values, fill


@dataclass(frozen=True, slots=True)
class HubConfig:
    """None leaves it to the environment. `offline`: the cache alone is used."""

    cache_dir: FilePath | None = None
    token_env: str | None = None
    endpoint: str | None = None
    offline: bool = False


def check_hub(said: Values, document: Document, env: Mapping[str, str]) -> Values:
    """The paths made whole; a variable that holds no token is warned of."""
    if "cache_dir" in said:
        said["cache_dir"] = document.folder / said["cache_dir"]
    if "token_env" in said and not env.get(said["token_env"], "").strip():
        document.found.warn(
            ("hub", "token_env"), f"the environment variable {said['token_env']} is not set: no token is sent"
        )
    return said


def hub_of(said: Values) -> HubConfig:
    return fill(HubConfig, said)
