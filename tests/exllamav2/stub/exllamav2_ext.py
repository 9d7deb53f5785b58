"""Stands in for exllamav2's compiled extension where there is none: its host functions, in torch.

Only what the Python side calls for half-precision weights on the CPU: page matching and
sampling. Slow, plain, and meant to say the same as the compiled functions.
"""

import torch


def count_match(a: torch.Tensor, b: torch.Tensor, most: int) -> int:
    """How many leading tokens two sequences share."""
    count = min(a.shape[-1], b.shape[-1], most)
    differ = (a.reshape(-1)[:count] != b.reshape(-1)[:count]).nonzero()
    return int(differ[0]) if len(differ) else count


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
    out_tokens, out_probs, out_kprobs, out_ktokens, allowed, mirostat,
    mu, tau, eta, post_temperature, xtc_mask, xtc, xtc_threshold,
    least_temperature, most_temperature, exponent, smoothing, skew,
):  # fmt: skip
    """One token of every row: `random` walks up the probabilities in the order of the ids, or down
    those of the likeliest `top_k`. What the library would do besides has meanings of its own, and
    is not asked for."""
    neutral = (0.0, 0.0, 0.0, 0.0, False, 0.0, 0.0, 0.0, 0.0, 1.0)
    used = (top_a, tfs, typical, smoothing, mirostat, xtc, skew, least_temperature, most_temperature)
    assert (*used, post_temperature) == neutral, (used, post_temperature)
    assert top_p in (0.0, 1.0) and min_p == 0.0, (top_p, min_p)
    assert out_kprobs.is_meta and logits.shape[0] == 1
    row = logits[0, 0].float()
    row = row if allowed.is_meta else row.masked_fill(~allowed[0], float("-inf"))
    if temperature < 0.01:
        temperature, top_k = 1.0, 1
    probs = torch.softmax((row - row.max()) / temperature, -1)
    tokens = torch.arange(len(probs))
    if 0 < top_k < len(probs):
        tokens = torch.sort(row, descending=True, stable=True).indices[:top_k]
        probs = probs[tokens] / probs[tokens].sum()
    # The extension adds up in single precision, and keeps clear of what that loses.
    chosen = min(int((probs.double().cumsum(-1) < random * 0.9998).sum()), len(probs) - 1)
    while chosen and probs[chosen] == 0:
        chosen -= 1
    out_tokens[0, 0], out_probs[0, 0] = tokens[chosen], probs[chosen]
    return []
