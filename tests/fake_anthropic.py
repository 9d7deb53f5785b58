"""Anthropic's own client library, fed with our bytes instead of a network."""

import anthropic
import httpx2


def client(body: bytes, kind: str, status: int = 200) -> anthropic.Anthropic:
    """A client whose every request is answered by `body` of content type `kind`."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": kind})

    return anthropic.Anthropic(
        api_key="k",
        base_url="http://localhost",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )
