"""Stands in for exllamav2's compiled extension where there is none: its host functions, in torch.

Only what the Python side calls for half-precision weights on the CPU: page matching, sampling,
page rotation. Slow, plain, and meant to say the same as the compiled functions.
"""

import torch


def count_match(a: torch.Tensor, b: torch.Tensor, most: int) -> int:
    """How many leading tokens two sequences share."""
    count = min(a.shape[-1], b.shape[-1], most)
    differ = (a.reshape(-1)[:count] != b.reshape(-1)[:count]).nonzero()
    return int(differ[0]) if len(differ) else count


def cache_rotate(cache: torch.Tensor, order: torch.Tensor, temp: torch.Tensor) -> None:
    """Pages change places along `order`, the first one by way of `temp`."""
    places = order.tolist()
    held = temp.view(-1)
    held.copy_(cache[places[0]])
    for at in range(len(places) - 1):
        cache[places[at]].copy_(cache[places[at + 1]])
    cache[places[-1]].copy_(held)


def fast_fill_cpu_ones_bool(tensor: torch.Tensor) -> None:
    tensor.fill_(True)


def fast_fadd_cpu(a: torch.Tensor, b: torch.Tensor) -> None:
    a.add_(b)


def logit_filter_exclusive(allowed: torch.Tensor, lists: list[list[int]]) -> None:
    """Only the listed tokens stay allowed."""
    for row, tokens in enumerate(lists):
        mask = torch.zeros_like(allowed[row])
        mask[list(tokens)] = True
        allowed[row] &= mask


def apply_rep_penalty(sequence, penalty, sustain, decay, frequency, presence, logits):
    """Tokens of the whole sequence become less likely. Ranges and decays are not in use here."""
    assert sustain == -1 and decay == 0, (sustain, decay)
    counts = torch.bincount(sequence.reshape(-1), minlength=logits.shape[-1]).to(logits.dtype)
    row = logits.view(-1)
    seen = counts > 0
    row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    row -= seen * presence + counts * frequency


def sample_basic(
    logits, temperature, top_k, top_p, top_a, min_p, tfs, typical, random,
    out_tokens, out_probs, out_kprobs, out_ktokens, allowed, *rest,
):  # fmt: skip
    """One token of every row: temperature, then top_k, top_p, min_p over what is left, then `random`
    walks down the probabilities."""
    rows = logits[:, 0].float().clone()
    if not allowed.is_meta:
        rows[~allowed] = float("-inf")
    for at, row in enumerate(rows):
        greedy = temperature < 0.01
        scaled = row if greedy else row / temperature
        probs, tokens = torch.softmax(scaled, -1).sort(descending=True, stable=True)
        kept = 1 if greedy else len(probs)
        if top_k:
            kept = min(kept, top_k)
        if 0 < top_p < 1:
            kept = min(kept, int((probs.cumsum(-1) < top_p).sum()) + 1)
        if 0 < min_p < 1:
            kept = min(kept, int((probs >= min_p * probs[0]).sum()))
        probs = probs[:kept] / probs[:kept].sum()
        chosen = min(int((probs.cumsum(-1) < random).sum()), kept - 1)
        out_tokens[at, 0], out_probs[at, 0] = tokens[chosen], probs[chosen]
    return []
