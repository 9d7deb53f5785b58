"""Make a model for benchmarks: 135 million random numbers, as GGUF Q8_0; with --large, 969 million.

    python tests/bench/make_model.py FOLDER [--large]

The smaller is big enough that computing outweighs the binding, small enough for any CPU. Both speak the
demo model's template and never end an answer by themselves, so that a run makes exactly as
many tokens as are asked for. What they say is made-up words without sense.

Needs gguf, numpy, safetensors and tokenizers (packaging/demo-model/requirements.txt
without torch); the test extra does not bring them.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "packaging" / "demo-model"))

import export  # noqa: E402  # the demo model's own writer, found by the line above
import vocabulary  # noqa: E402
from shape import Shape, Weights, random_weights  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

SHAPE: Final = Shape(vocab=32768, hidden=768, layers=16, heads=12, kv_heads=4, inner=2304, context=8192)
LARGE: Final = Shape(vocab=32768, hidden=2048, layers=20, heads=32, kv_heads=8, inner=5632, context=8192)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a random model for benchmarks.")
    parser.add_argument("folder", type=Path, help="where the model and tokenizer.json go")
    parser.add_argument("--large", action="store_true", help="1 GB, to see what a load holds up")
    said = parser.parse_args()
    folder, name, shape = said.folder, *(("cortex-large", LARGE) if said.large else ("cortex-bench", SHAPE))
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = enlarged(ROOT / "cortex" / "demo" / "hf" / "tokenizer.json")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = random_weights(shape)
    hush(tokenizer, weights)
    path = folder / f"{name}.gguf"
    export.write_gguf(path, tokenizer, shape, weights, name=name, q8=True)
    count = sum(tensor.size for tensor in weights.values())
    print(f"{path}: {count} parameters, {path.stat().st_size} bytes, {time.monotonic() - began:.0f} s")


def enlarged(path: Path) -> Tokenizer:
    """The demo tokenizer with made-up words after its own, so that the head has a usual size.

    No merge leads to such a word: a prompt never holds one, an answer mostly does.
    """
    described = json.loads(path.read_text(encoding="utf-8"))
    words = described["model"]["vocab"]
    taken = len(words) + len(described["added_tokens"])
    words |= {f"Ġword{number}": number for number in range(taken, SHAPE.vocab)}
    return Tokenizer.from_str(json.dumps(described))


def hush(tokenizer: Tokenizer, weights: Weights) -> None:
    """Marks and single bytes are never the best choice: answers go on, and are whole UTF-8."""
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    broken = [number for piece, number in pieces.items() if len(piece) == 1 and not piece.isascii()]
    # The head is the embedding again: a row of zeros scores 0, and some of thousands score more.
    weights["model.embed_tokens.weight"][[*vocabulary.mark_ids(tokenizer).values(), *broken]] = 0


if __name__ == "__main__":
    main()
