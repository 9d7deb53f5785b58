"""What clients hear: the answers of each dialect, streamed and whole, become events again.

Written by the vendors' references alone, for the figures and fields that their libraries read.
"""

import json
from typing import Any

from cortex.events import Event, Stopped, Text, Thought, TokenLogprob, ToolCall, Usage
from cortex.wire.sse_reading import EventReader


def _datas(stream: bytes) -> list[Any]:
    return [json.loads(data) for data in EventReader().feed(stream) if data and data != b"[DONE]"]


def _scores(said: Any) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token["token"],
            token["logprob"],
            tuple((top["token"], top["logprob"]) for top in token["top_logprobs"]),
        )
        for token in (said or {}).get("content") or ()
    )


def _chat_usage(said: Any) -> Usage:
    return Usage(
        said["prompt_tokens"],
        said["prompt_tokens_details"]["cached_tokens"],
        said["completion_tokens"],
        said["completion_tokens_details"]["reasoning_tokens"],
        said.get("estimated", False),
    )


def _chat_calls(said: Any) -> list[Event]:
    return [
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        if call["type"] == "function"
        else ToolCall(call["id"], call["custom"]["name"], call["custom"]["input"])
        for call in said or ()
    ]


def chat(stream: bytes) -> list[Event]:
    said: list[Event] = []
    reason, usage = "", Usage()
    for chunk in _datas(stream):
        if chunk.get("usage"):
            usage = _chat_usage(chunk["usage"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("reasoning_content"):
                said.append(Thought(delta["reasoning_content"]))
            if delta.get("content"):
                said.append(Text(delta["content"], _scores(choice.get("logprobs"))))
            said += _chat_calls(delta.get("tool_calls"))
            reason = choice["finish_reason"] or reason
    return [*said, Stopped(reason, usage)]  # type: ignore[arg-type]


def chat_whole(body: bytes) -> list[Event]:
    whole = json.loads(body)
    choice = whole["choices"][0]
    message = choice["message"]
    said: list[Event] = []
    if message.get("reasoning_content"):
        said.append(Thought(message["reasoning_content"]))
    if message["content"]:
        said.append(Text(message["content"], _scores(choice.get("logprobs"))))
    said += _chat_calls(message.get("tool_calls"))
    return [*said, Stopped(choice["finish_reason"], _chat_usage(whole["usage"]))]


def _legacy_scores(said: Any) -> tuple[TokenLogprob, ...]:
    if not said:
        return ()
    tops = said["top_logprobs"] or [{} for _ in said["tokens"]]
    rows = zip(said["tokens"], said["token_logprobs"], tops, strict=True)
    return tuple(TokenLogprob(token, score, tuple(top.items())) for token, score, top in rows)


def text(stream: bytes) -> list[Event]:
    said: list[Event] = []
    reason, usage = "", Usage()
    for chunk in _datas(stream):
        if chunk.get("usage"):
            usage = _chat_usage(chunk["usage"])
        for choice in chunk["choices"]:
            if choice["text"]:
                said.append(Text(choice["text"], _legacy_scores(choice.get("logprobs"))))
            reason = choice["finish_reason"] or reason
    return [*said, Stopped(reason, usage)]  # type: ignore[arg-type]


def text_whole(body: bytes) -> list[Event]:
    whole = json.loads(body)
    choice = whole["choices"][0]
    said: list[Event] = [Text(choice["text"], _legacy_scores(choice["logprobs"]))] if choice["text"] else []
    return [*said, Stopped(choice["finish_reason"], _chat_usage(whole["usage"]))]


_WORDS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def _message_end(said: Any, usage: Any) -> Stopped:
    cached = usage.get("cache_read_input_tokens") or 0
    counts = Usage(
        usage["input_tokens"] + cached, cached, usage["output_tokens"], 0, usage.get("estimated", False)
    )
    return Stopped(_WORDS[said["stop_reason"]], counts, said["stop_sequence"])  # type: ignore[arg-type]


def messages(stream: bytes) -> list[Event]:
    said: list[Event] = []
    usage: dict[str, Any] = {}
    block: dict[str, Any] = {}
    arguments = ""
    for event in _datas(stream):
        match event["type"]:
            case "message_start":
                usage = event["message"]["usage"]
            case "content_block_start":
                block, arguments = event["content_block"], ""
            case "content_block_delta":
                match event["delta"]:
                    case {"type": "text_delta", "text": words}:
                        said.append(Text(words))
                    case {"type": "thinking_delta", "thinking": words}:
                        said.append(Thought(words))
                    case {"type": "input_json_delta", "partial_json": piece}:
                        arguments += piece
            case "content_block_stop" if block["type"] == "tool_use":
                said.append(ToolCall(block["id"], block["name"], arguments))
            case "message_delta":
                said.append(_message_end(event["delta"], {**usage, **event["usage"]}))
    return said


def messages_whole(body: bytes) -> list[Event]:
    whole = json.loads(body)
    said: list[Event] = []
    for block in whole["content"]:
        match block:
            case {"type": "text", "text": words}:
                said.append(Text(words))
            case {"type": "thinking", "thinking": words}:
                said.append(Thought(words))
            case {"type": "tool_use"}:
                arguments = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
                said.append(ToolCall(block["id"], block["name"], arguments))
    return [*said, _message_end(whole, whole["usage"])]


def responses(stream: bytes) -> list[Event]:
    """The deltas, held against the items that end them and the response at the end."""
    said: list[Event] = []
    whole: list[Event] = []
    for event in _datas(stream):
        match event["type"]:
            case "response.output_text.delta":
                said.append(Text(event["delta"], _scores({"content": event["logprobs"]})))
            case "response.reasoning_summary_text.delta":
                said.append(Thought(event["delta"]))
            case "response.output_item.done":
                said += [each for each in _item(event["item"]) if isinstance(each, ToolCall)]
            case "response.completed" | "response.incomplete":
                whole = responses_whole(json.dumps(event["response"]).encode())
    assert _texts(whole) == _texts(said)
    return [*said, whole[-1]]


def _texts(events: list[Event]) -> tuple[str, str]:
    return (
        "".join(event.text for event in events if isinstance(event, Text)),
        "".join(event.text for event in events if isinstance(event, Thought)),
    )


def _item(item: Any) -> list[Event]:
    match item["type"]:
        case "message":
            return [Text(part["text"], _scores({"content": part["logprobs"]})) for part in item["content"]]
        case "reasoning":
            return [Thought("".join(part["text"] for part in item["summary"]))]
        case kind:
            name = f"{item['namespace']}__{item['name']}" if item.get("namespace") else item["name"]
            arguments = item["input"] if kind == "custom_tool_call" else item["arguments"]
            return [ToolCall(item["call_id"], name, arguments)]


def responses_whole(body: bytes) -> list[Event]:
    whole = json.loads(body)
    told = whole["usage"]
    usage = Usage(
        told["input_tokens"],
        told["input_tokens_details"]["cached_tokens"],
        told["output_tokens"],
        told["output_tokens_details"]["reasoning_tokens"],
        told.get("estimated", False),
    )
    reason = {"completed": "stop", "incomplete": "length"}[whole["status"]]
    said = [event for item in whole["output"] for event in _item(item)]
    return [*said, Stopped(reason, usage)]  # type: ignore[arg-type]
