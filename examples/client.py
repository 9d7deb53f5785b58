"""Chat with a cortex from the terminal, with the official OpenAI SDK.

    cortex up                             # in another terminal
    pip install openai
    python examples/client.py             # or: python examples/client.py http://host:31313/v1

Where the gateway has [[keys]], put one into CORTEX_API_KEY.

Answers are printed as they come. A line of input is a turn; Ctrl-D ends the chat.
Everything below is the SDK's own way: cortex needs no client of its own.
"""

import os
import sys
from collections.abc import Iterator

from openai import OpenAI, OpenAIError

DEFAULT = "http://127.0.0.1:31313/v1"


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    # A gateway without keys ignores it; the SDK insists on having something to send.
    client = OpenAI(base_url=url, api_key=os.environ.get("CORTEX_API_KEY", "none"))
    try:
        model = client.models.list().data[0].id
    except IndexError:
        print(f"{url} serves no model", file=sys.stderr)
        return 1
    except OpenAIError as error:
        print(f"{url} does not answer: {error}", file=sys.stderr)
        return 1
    print(f"{model} at {url}")
    messages: list[dict[str, str]] = []
    for line in questions():
        messages.append({"role": "user", "content": line})
        try:
            answer = say(client, model, messages)
        except OpenAIError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        messages.append({"role": "assistant", "content": answer})
    return 0


def questions() -> Iterator[str]:
    """What is typed, a line at a time, without empty lines."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line:
            yield line


def say(client: OpenAI, model: str, messages: list[dict[str, str]]) -> str:
    """The whole answer, printed while it comes."""
    parts = []
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        for choice in chunk.choices:
            if text := choice.delta.content:
                print(text, end="", flush=True)
                parts.append(text)
    print()
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
