"""llama.cpp on the CPU, embedded through its binding: GGUF files, continuous batching.

`loading` says whether it can run here and brings models in, `engine` drives a loaded
one, `asking` writes its requests and reads its answers, `listener` is the one door of its
HTTP side that is used, `vocabulary` has a model's tokens without the model. Nothing outside
this folder knows the binding.
"""

from cortex.harness.llamacpp.loading import LlamaCppHarness, in_child, vocabulary_in_child

__all__ = ["LlamaCppHarness", "in_child", "vocabulary_in_child"]
