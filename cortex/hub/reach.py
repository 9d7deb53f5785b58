"""Whether the hub can be reached from here, and takes our token: a question for the doctor.

One small request, never a retry, and no download. Blocks.
"""

from dataclasses import dataclass
from typing import Final

import httpx

from cortex.causes import bottom
from cortex.config.hub import HubConfig
from cortex.errors import CortexError, Unauthorised, Unreachable
from cortex.hub.refusals import unusable
from cortex.hub.settings import settle

KNOCK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found; `fault` is an error with its remedy, None while downloads would work."""

    words: str
    fault: CortexError | None = None


def knock(config: HubConfig) -> Reached:
    """Ask the hub who we are."""
    try:
        settings = settle(config)
    except CortexError as error:
        return Reached("cannot be used", error)
    if settings.offline is not None:
        return Reached(f"is not used: {settings.offline}")
    headers = {} if settings.token is None else {"authorization": f"Bearer {settings.token}"}
    try:
        status = httpx.get(f"{settings.endpoint}/api/whoami-v2", headers=headers, timeout=KNOCK_S).status_code
    except (httpx.InvalidURL, ImportError, ValueError, OSError) as error:
        # Before any request: proxies or certificates of the environment that are none.
        return Reached("cannot be used", unusable(error))
    except httpx.HTTPError as error:
        why = Unreachable(
            "see whether this host reaches it, perhaps by a proxy (HTTPS_PROXY), or set [hub] endpoint, "
            "or offline"
        )
        return Reached(f"{settings.endpoint} is not reached: {bottom(error)}", why)
    if settings.token is not None and status in (401, 403):
        return Reached(
            f"{settings.endpoint} refuses the token", Unauthorised(f"put a valid one into {settings.secret}")
        )
    if status not in (200, 401, 403):
        remedy = "try again later" if status >= 500 else "see whether HF_ENDPOINT, or [hub] endpoint, is one"
        return Reached(f"{settings.endpoint} answers with status {status}", Unreachable(remedy))
    token = "without a token" if settings.token is None else "and takes the token"
    return Reached(f"{settings.endpoint} is reached, {token}")
