"""Where the hub, its cache and its token are: our configuration first, then what all tools of
the hub read from the environment.

The environment is huggingface_hub's to interpret. It reads most of it once, when it is imported.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cortex.config.hub import HubConfig
from cortex.errors import ConfigError, Unfit

try:
    from huggingface_hub import constants
except ValueError as error:
    raise ConfigError(
        [f"a variable of the environment that begins with HF_ cannot be read ({error}); mend or unset it"]
    ) from error


@dataclass(frozen=True, slots=True)
class Settings:
    """`secret` is how an error names the place of the token; `offline` why no network is used."""

    endpoint: str
    cache: Path
    token: str | None = field(repr=False)
    secret: str
    offline: str | None


def settle(config: HubConfig) -> Settings:
    """What holds. Blocking: a login may be renewed. Unfit when there is no good endpoint or token."""
    endpoint = (config.endpoint or constants.ENDPOINT).rstrip("/")
    if not is_address(endpoint) or any(mark in endpoint for mark in "@?#"):
        # Not echoed: it may hold a password, which every error would tell that names the hub.
        name = "HF_ENDPOINT" if config.endpoint is None else "[hub] endpoint"
        raise Unfit(
            f"{name} is no address of a hub: write https:// or http://, a host, perhaps a port and a path"
        )
    offline = (
        "[hub] offline = true"
        if config.offline
        else "HF_HUB_OFFLINE is set"
        if constants.HF_HUB_OFFLINE
        else None
    )
    secret = config.token_env or "HF_TOKEN"
    return Settings(endpoint, cache_of(config), _token(config) if offline is None else None, secret, offline)


def is_address(url: str) -> bool:
    """Whether it is one of the web, with a host that a resolver may be asked for."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def cache_of(config: HubConfig) -> Path:
    """Where models are kept."""
    return (config.cache_dir or Path(constants.HF_HUB_CACHE)).absolute()


def _token(config: HubConfig) -> str | None:
    """That of `token_env` alone when it is set; else that of HF_TOKEN or of `hf auth login`."""
    if config.token_env is not None:
        token: str | None = os.environ.get(config.token_env, "").strip() or None
    else:
        from huggingface_hub import get_token  # noqa: PLC0415 - imports its whole client

        token = get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise Unfit(
            f"the token in {config.token_env or 'HF_TOKEN'} is no token: it has spaces or other characters"
        )
    return token
