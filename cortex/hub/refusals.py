"""What the hub's answers mean when they are no files, with the remedy.

Pure. What is definite is Unfit: nothing was begun, and asking again changes nothing. What may
pass is `Cut`, which is tried again a few times before it becomes an error.
"""

from collections.abc import Mapping
from typing import Final

from cortex.errors import CortexError, LoadFailed, Unfit
from cortex.hub.settings import Settings
from cortex.hub.source import Source

# Said with most refusals: the status alone does not tell a private repo from one that is not there.
_CODE: Final = "x-error-code"
_BAD: Final = "BadCredential"
# Statuses that say nothing of the repo.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Cut(Exception):
    """The connection broke, or the hub could not at the moment. `wait_s` is when it wants to be
    asked again; None when it did not say."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def of(
    source: Source, settings: Settings, status: int, headers: Mapping[str, str], what: str
) -> CortexError | Cut:
    """What an answer with that status to the question for `what` means."""
    if status in _PASSING:
        why = "asks for fewer requests (429)" if status == 429 else f"answers with status {status}"
        return Cut(f"{settings.endpoint} {why}", _retry_after(headers))
    code = headers.get(_CODE, "") or _usual(status, settings)
    repo, page, credential = source.repo, f"{settings.endpoint}/{source.repo}", _credential(settings)
    said = {
        "GatedRepo": f"{repo} is gated: accept its licence at {page}, and {credential}",
        "DisabledRepo": f"{repo} was disabled by the hub; its page may say why: {page}",
        "RevisionNotFound": f"{repo} has no revision '{source.revision}': {page}/tree/main lists them",
        "EntryNotFound": f"{repo} lists {what} and does not have it; try again, or choose another revision",
        "RepoNotFound": f"{settings.endpoint} has no model {repo}, or does not show it to everybody: check "
        f"the spelling; if it is private, {credential}",
        _BAD: f"{settings.endpoint} refuses {repo} to the token in {settings.secret}; put a valid one there",
    }
    if code in said:
        return Unfit(said[code])
    if status in (401, 403):
        return Unfit(f"{settings.endpoint} does not allow the download of {repo}: {credential}")
    return LoadFailed(f"{settings.endpoint} answers with status {status} for {what} of {repo}; is it a hub?")


def unusable(error: Exception) -> Unfit:
    """What no connection can be made with."""
    return Unfit(
        f"what the environment says of proxies and certificates cannot be used ({error}); mend or unset "
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    )


def _usual(status: int, settings: Settings) -> str:
    """What a status means that comes without the hub's own code."""
    unknown = "RepoNotFound" if settings.token is None else _BAD
    return {401: unknown, 403: "GatedRepo", 404: "RepoNotFound"}.get(status, "")


def _credential(settings: Settings) -> str:
    if settings.token is None:
        return (
            f"put a token of your account into the environment variable {settings.secret} ([hub] token_env)"
        )
    return f"make sure that the token in {settings.secret} belongs to an account with access, and may read it"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    said = headers.get("retry-after", "").strip()
    return float(said) if said.isascii() and said.isdigit() and len(said) < 9 else None
