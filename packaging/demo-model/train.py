"""Make the demo model in one go: corpus, tokenizer, training, both file forms, score report.

    python train.py FOLDER              everything; the same line again goes on where it was cut off
    python train.py FOLDER --random     random weights, in seconds, without torch, and no score

FOLDER ends up with `cortex-demo.gguf`, `hf/` (a Hugging Face model folder) and `score.md`.
"""

import argparse
import time
from pathlib import Path

import export
import vocabulary
from shape import Shape, Weights, random_weights
from tokenizers import Tokenizer

STEPS = 4500


def main() -> None:
    """All stages, then a list of the files."""
    given = _arguments()
    folder: Path = given.folder
    (folder / "hf").mkdir(parents=True, exist_ok=True)
    shape, began = Shape(), time.monotonic()
    tokenizer = vocabulary.load_or_learn(folder / "hf" / "tokenizer.json", shape.vocab)
    weights = random_weights(shape) if given.random else _trained(given, tokenizer, shape)
    print(f"{sum(tensor.size for tensor in weights.values())} parameters")
    export.write_folder(folder / "hf", tokenizer, shape, weights)
    gguf = folder / "cortex-demo.gguf"
    export.write_gguf(gguf, tokenizer, shape, weights, name=export.NAME, q8=False)
    if not given.random:
        _score(gguf, folder / "score.md")
    print(f"{time.monotonic() - began:.0f} s in this run")
    for path in sorted(folder.rglob("*.*")):
        print(f"{path.stat().st_size:>9} {path.relative_to(folder)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make, train, export and score the demo model of cortex.")
    parser.add_argument("folder", type=Path, help="where all files go, the checkpoint too")
    parser.add_argument("--random", action="store_true", help="random weights only; needs no torch")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}: the shipped model's")
    parser.add_argument("--threads", type=int, default=2, help="of torch; another number rounds otherwise")
    return parser.parse_args()


def _trained(given: argparse.Namespace, tokenizer: Tokenizer, shape: Shape) -> Weights:
    import torch  # noqa: PLC0415  # large, and --random does without it
    from learning import learn  # noqa: PLC0415

    torch.set_num_threads(given.threads)
    return learn(given.folder / "train.pt", tokenizer, shape, given.steps)


def _score(gguf: Path, report: Path) -> None:
    from score import score  # noqa: PLC0415  # needs the engine

    text = score(gguf)
    report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
