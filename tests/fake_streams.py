"""Small event streams of each dialect, as neurons write them; each ends with its end mark."""

from cortex.wire.faults import Dialect

CHAT = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
    b": keep-alive\n\n",
    b'data: {"choices":[{"index":0,"delta":{"content":"caf\xc3\xa9"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\ndata: \\"role\\":"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
]
MESSAGES = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"caf\xc3\xa9"}}\n\n',
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","delta":"\\"content_block_delta\\""}\n\n',
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":2}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
RESPONSES = [
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n',
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"caf\xc3\xa9"}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"!"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n',
]
STREAMS: dict[Dialect, list[bytes]] = {"openai": CHAT, "anthropic": MESSAGES, "responses": RESPONSES}
# What a neuron says itself when a generation fails after its head: complete, and failed.
FAILURES: dict[Dialect, bytes] = {
    "openai": b'data: {"error":{"message":"m","code":"engine_failed"}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n',
    "responses": b'event: error\ndata: {"type":"error","error":{"message":"m"}}\n\n',
}
