"""The vendor's own client library, fed with our bytes instead of a network."""

import httpx
import openai


def client(body: bytes, kind: str) -> openai.OpenAI:
    """A client whose every request is answered by `body` of content type `kind`."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": kind})

    return openai.OpenAI(
        api_key="k",
        base_url="http://localhost/v1",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
    )
