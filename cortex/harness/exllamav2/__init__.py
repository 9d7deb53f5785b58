"""exllamav2 on CUDA: EXL2, GPTQ and fp16 folders, continuous batching over a paged KV cache.

`probe` says whether it can run here, `extension` finds its compiled part and `build` makes it.
Nothing here imports torch or exllamav2 but on the device's thread: a host without CUDA never does.
"""

from cortex.harness.exllamav2.loading import ExLlamaV2Harness, in_child
from cortex.harness.exllamav2.words import vocabulary_in_child

__all__ = ["ExLlamaV2Harness", "in_child", "vocabulary_in_child"]
