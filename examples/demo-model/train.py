"""Make the demo model: train it, or fill its shape with random numbers, and export it.

    python train.py FOLDER --random          random weights, in seconds, without torch
    python train.py FOLDER --seconds 280     train; the same line again goes on

FOLDER ends up a Hugging Face model folder with two GGUF files beside it.
"""

import argparse
from pathlib import Path

import export
import vocabulary
from shape import Shape, Weights, random_weights
from tokenizers import Tokenizer


def main() -> None:
    """Train or draw the weights, write every form, list the files."""
    given = arguments()
    shape = Shape(hidden=given.hidden, layers=given.layers, inner=given.inner)
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary.load_or_learn(folder / "tokenizer.json", shape.vocab)
    weights = random_weights(shape) if given.random else trained(given, tokenizer, shape)
    print(f"{sum(tensor.size for tensor in weights.values())} parameters")
    export.write_folder(folder, tokenizer, shape, weights)
    for name, q8 in (("cortex-demo.gguf", False), ("cortex-demo-q8_0.gguf", True)):
        export.write_gguf(folder / name, tokenizer, shape, weights, name=export.NAME, q8=q8)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9} {path.name}")


def arguments() -> argparse.Namespace:
    """The command line; sizes default to the demo model's."""
    parser = argparse.ArgumentParser(description="Make, train and export the demo model of cortex.")
    parser.add_argument("folder", type=Path, help="where all files go, the checkpoint too")
    parser.add_argument("--random", action="store_true", help="random weights only; needs no torch")
    parser.add_argument("--seconds", type=float, default=280, help="train so long, then save and export")
    parser.add_argument(
        "--steps", type=int, default=1500, help="stop for good after so many, all runs together"
    )
    parser.add_argument("--layers", type=int, default=Shape().layers)
    parser.add_argument("--hidden", type=int, default=Shape().hidden)
    parser.add_argument("--inner", type=int, default=Shape().inner)
    return parser.parse_args()


def trained(given: argparse.Namespace, tokenizer: Tokenizer, shape: Shape) -> Weights:
    """The weights after one run of training, on top of those before."""
    from learning import learn  # noqa: PLC0415  # torch is large, and --random does without it

    return learn(given.folder / "train.pt", tokenizer, shape, given.seconds, given.steps)


if __name__ == "__main__":
    main()
