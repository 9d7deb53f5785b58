"""Training: the forward pass, the optimisers, and a loop that can be stopped and resumed.

The only file that needs torch. Muon moves the matrices, AdamW the embedding and the norms;
one checkpoint beside the exports holds all that a later run needs to go on.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import chat
import torch
from corpus import Dialogues
from shape import Shape, Weights, random_weights
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from vocabulary import mark_ids

WINDOW: Final = 384  # tokens: two calls in one turn with both tools and a system prompt fit
BATCH: Final = 8
RATE: Final = 4e-3
MUON_RATE: Final = 0.02
WARM_UP: Final = 30
SEED: Final = 1000
EVERY: Final = 100  # steps between checkpoints
MISSES: Final = 4  # dialogues in a row without room: the batch is full

# In its first third the loss also looks at this many tokens of context a step, at this
# weight: attention then forms early.
CONTEXT_TOKENS: Final = 400
CONTEXT_WEIGHT: Final = 0.3

Parameters = dict[str, Tensor]


def learn(checkpoint: Path, tokenizer: Tokenizer, shape: Shape, steps: int) -> Weights:
    """The weights after `steps`, going on from `checkpoint` where a run was cut off."""
    torch.manual_seed(SEED)
    training = Training(shape, steps)
    if checkpoint.exists():
        training.resume(torch.load(checkpoint))
    windows = Windows(tokenizer)
    began = time.monotonic() - training.spent
    while training.step < steps:
        loss = training.advance(windows.batch(training.step))
        if training.step % EVERY == 0 or training.step == steps:
            training.spent = time.monotonic() - began
            _save(training.state(), checkpoint)
            print(f"step {training.step} loss {loss:.4f} {training.spent:.0f}s", flush=True)
    return {name: parameter.detach().numpy() for name, parameter in training.parameters.items()}


def _save(state: dict[str, Any], path: Path) -> None:
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


class Batch(NamedTuple):
    """BATCH rows of WINDOW: token ids, their weights, and the number of their dialogue in the row."""

    ids: Tensor
    weights: Tensor
    dialogues: Tensor

    def seen(self) -> Tensor:
        """What each position may attend to: what came before it in its own dialogue."""
        same = self.dialogues[:, :, None] == self.dialogues[:, None, :]
        mask = torch.zeros(same.shape).masked_fill(~same.tril(), float("-inf"))
        return mask[:, None]


class Windows:
    """Windows of tokens with their weights: whole dialogues, packed side by side.

    A step's batch follows from the seed and the step alone, so a resumed run is the same run.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._gap = mark_ids(tokenizer)[chat.END_OF_TEXT]

    def batch(self, step: int) -> Batch:
        """Dialogues in the first row with room, until a few in a row find none."""
        dialogues = Dialogues(f"{SEED}/{step}")
        rows: list[list[tuple[int, int, int]]] = [[] for _ in range(BATCH)]
        misses = 0
        while misses < MISSES:
            tokens = self._encoded(dialogues)
            row = next((row for row in rows if len(row) + len(tokens) <= WINDOW), None)
            if row is None:
                misses += 1
                continue
            number = row[-1][2] + 1 if row else 1
            row += [(token, weight, number) for token, weight in tokens]
        padded = [row + [(self._gap, 0, 0)] * (WINDOW - len(row)) for row in rows]
        return Batch(*torch.tensor(padded).unbind(-1))

    def _encoded(self, dialogues: Dialogues) -> list[tuple[int, int]]:
        tokens: list[tuple[int, int]] = []
        for piece in dialogues.one():
            ids = self._tokenizer.encode(piece.text, add_special_tokens=False).ids
            tokens += [(number, piece.weight) for number in ids]
        return [*tokens, (self._gap, 0)]


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of every position and pair, for rotary position embedding."""

    cosines: Tensor
    sines: Tensor

    @classmethod
    def of(cls, shape: Shape) -> "Rotation":
        pairs = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        angles = torch.outer(torch.arange(WINDOW).float(), 1.0 / shape.rope_theta**pairs)
        return cls(angles.cos(), angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cosines, sines = self.cosines[: x.shape[-2]], self.sines[: x.shape[-2]]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


def forward(shape: Shape, parameters: Parameters, rotation: Rotation, batch: Batch) -> Tensor:
    """The last hidden state of every position; the head is the embedding again."""
    seen = batch.seen()
    x = F.embedding(batch.ids, parameters["model.embed_tokens.weight"])
    for number in range(shape.layers):
        prefix = f"model.layers.{number}."
        layer = {
            name.removeprefix(prefix).removesuffix(".weight"): parameter
            for name, parameter in parameters.items()
            if name.startswith(prefix)
        }
        x = x + _attention(Attending(shape, rotation, seen), layer, _norm(shape, x, layer["input_layernorm"]))
        h = _norm(shape, x, layer["post_attention_layernorm"])
        gate = F.silu(F.linear(h, layer["mlp.gate_proj"])) * F.linear(h, layer["mlp.up_proj"])
        x = x + F.linear(gate, layer["mlp.down_proj"])
    return _norm(shape, x, parameters["model.norm.weight"])


def _norm(shape: Shape, x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, shape.norm_eps)


class Attending(NamedTuple):
    """What every layer's attention needs besides its weights."""

    shape: Shape
    rotation: Rotation
    seen: Tensor


def _attention(attending: Attending, layer: Parameters, h: Tensor) -> Tensor:
    shape, rotation, seen = attending
    rows, length, _ = h.shape

    def heads(name: str) -> Tensor:
        return F.linear(h, layer[f"self_attn.{name}_proj"]).view(rows, length, -1, shape.head_dim)

    query = rotation.turn(_norm(shape, heads("q"), layer["self_attn.q_norm"]).transpose(1, 2))
    key = rotation.turn(_norm(shape, heads("k"), layer["self_attn.k_norm"]).transpose(1, 2))
    value = heads("v").transpose(1, 2)
    shared = shape.heads // shape.kv_heads
    looked_up = F.scaled_dot_product_attention(
        query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1), attn_mask=seen
    )
    return F.linear(looked_up.transpose(1, 2).reshape(rows, length, -1), layer["self_attn.o_proj"])


class Training:
    """Parameters and optimisers, one step at a time."""

    def __init__(self, shape: Shape, steps: int) -> None:
        self._shape = shape
        self._steps = steps
        self._rotation = Rotation.of(shape)
        self.step = 0
        self.spent = 0.0
        self._adopt({name: torch.tensor(tensor) for name, tensor in random_weights(shape).items()})

    def _adopt(self, parameters: Parameters) -> None:
        self.parameters = parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        matrices = {name for name, p in parameters.items() if p.ndim == 2 and "embed" not in name}
        self._matrices = [p for name, p in parameters.items() if name in matrices]
        self._others = [p for name, p in parameters.items() if name not in matrices]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]
        self._adam = torch.optim.AdamW(self._others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)

    def state(self) -> dict[str, Any]:
        """What `resume` takes back."""
        return {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "adam": self._adam.state_dict(),
            "momenta": self._momenta,
            "step": self.step,
            "spent": self.spent,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        if {name: tuple(p.shape) for name, p in state["parameters"].items()} != self._shape.tensors():
            raise SystemExit("the checkpoint has another shape: give an empty folder")
        self._adopt(state["parameters"])
        self._adam.load_state_dict(state["adam"])
        self._momenta = state["momenta"]
        self.step, self.spent = state["step"], state["spent"]

    def advance(self, batch: Batch) -> float:
        """One step; the loss over what was to be learnt."""
        pace = self._pace()
        taught, loss = self._losses(batch)
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._step_adam(pace)
        self._step_muon(pace)
        self.step += 1
        return taught.item()

    def _pace(self) -> float:
        """A share of the full rate: a short warm-up, then down to a fiftieth at the end."""
        left = min(1, 1.4 * (1 - self.step / self._steps))
        return min(1, (self.step + 1) / WARM_UP) * (0.02 + 0.98 * left)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = forward(self._shape, self.parameters, self._rotation, batch)[:, :-1]
        hidden = hidden.reshape(-1, self._shape.hidden)
        wanted, weights = batch.ids[:, 1:].reshape(-1), batch.weights[:, 1:].reshape(-1)
        chosen = weights.nonzero()[:, 0]
        share = weights[chosen].float()
        taught = (self._entropy(hidden[chosen], wanted[chosen]) * share).sum() / share.sum()
        if self.step >= self._steps // 3:
            return taught, taught
        any_token = torch.randint(0, hidden.shape[0], (CONTEXT_TOKENS,))
        return taught, taught + CONTEXT_WEIGHT * self._entropy(hidden[any_token], wanted[any_token]).mean()

    def _entropy(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        logits = F.linear(hidden, self.parameters["model.embed_tokens.weight"])
        return F.cross_entropy(logits, wanted, reduction="none")

    def _step_adam(self, pace: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = RATE * pace
        torch.nn.utils.clip_grad_norm_(self._others, 1.0)
        self._adam.step()

    @torch.no_grad()
    def _step_muon(self, pace: float) -> None:
        for matrix, momentum in zip(self._matrices, self._momenta, strict=True):
            gradient = matrix.grad
            assert gradient is not None, "every matrix takes part in every step"
            momentum.mul_(0.95).add_(gradient)
            tall = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.add_(_orthogonal(gradient + 0.95 * momentum), alpha=-MUON_RATE * pace * tall)
            matrix.grad = None


def _orthogonal(gradient: Tensor) -> Tensor:
    """The nearest half-orthogonal matrix, by five Newton-Schulz steps (Muon's update)."""
    x: Tensor = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if gradient.shape[0] <= gradient.shape[1] else x.T
