"""The benchmark's bare engine can still be asked in cortex's own words."""

import json

from cortex.demo import GGUF
from tests.bench.bare import Bare


def test_the_bare_engine_makes_the_tokens_that_each_request_asks_for() -> None:
    bare = Bare(GGUF, context=256, slots=2, threads=1)
    body = {"model": "any", "messages": [{"role": "user", "content": "Tell me a long story."}]}
    body |= {"max_tokens": 5, "temperature": 0, "stream": True}
    done = bare.burst([json.dumps(body).encode()] * 2)
    bare.close()
    assert done.tokens == 10
    assert len(done.first_s) == 2
    assert 0 < min(done.first_s) <= max(done.first_s) <= done.wall_s
