"""The demo model ships inside the package: a newcomer's first answer needs no download.

One set of weights in two forms: GGUF for llama.cpp, safetensors for exllamav2; both are
fp16, number for number. It recalls what it was taught, and greedy decoding makes every
answer repeatable. It is no useful model and no benchmark: `packaging/demo-model/README.md`
says what it is not, and how it is made. Owns the names and places of the files; leaves
reading them to `weights` and the harnesses.
"""

from pathlib import Path
from typing import Final

MODEL_ID: Final = "cortex-demo"

# Tokens per sequence: what both files declare.
CONTEXT: Final = 2048

FOLDER: Final[Path] = Path(__file__).resolve().parent
GGUF: Final[Path] = FOLDER / "cortex-demo.gguf"

# A complete model folder in the Hugging Face conventions.
HF: Final[Path] = FOLDER / "hf"
