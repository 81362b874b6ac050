"""Drawing the next token: from a seed to a number, from logits and the number to a token.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from raykd.config.sampling import SamplingConfig
from raykd.soft_targets.keys import uniform

GOLDEN: Final = 0x9E3779B97F4A7C15
"""Step of SplitMix64: from a row's seed to the keys of its tokens."""


def draws(seeds: Sequence[int], places: Sequence[int]) -> torch.Tensor:
    """A number in [0, 1), float64 [B], for token `places` of each row, from its seed alone."""
    keys = [
        (seed + (place + 1) * GOLDEN) % 2**64 for seed, place in zip(seeds, places, strict=True)
    ]
    return uniform(torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64)))


def sample(
    logits_BV: torch.Tensor, draws_B: torch.Tensor, sampling: SamplingConfig
) -> torch.Tensor:
    """Draw a token of each row: at the temperature, among `top_k`, then among `top_p`'s mass.

    Args:
        logits_BV: float32.
        draws_B: float64 in [0, 1): where in the cumulated distribution, in the order of ids.
        sampling: Temperature above 0.

    Returns:
        int64 [B].
    """
    probs_BV = torch.softmax(logits_BV.double() / sampling.temperature, dim=-1)
    vocab_size = probs_BV.shape[-1]
    if sampling.top_k is not None and sampling.top_k < vocab_size:
        kept = probs_BV.topk(sampling.top_k, dim=-1)
        probs_BV = torch.zeros_like(probs_BV).scatter(1, kept.indices, kept.values)
        probs_BV /= probs_BV.sum(dim=-1, keepdim=True)
    if sampling.top_p < 1:
        in_order = probs_BV.sort(dim=-1, descending=True, stable=True)
        before = in_order.values.cumsum(dim=-1) - in_order.values
        values = in_order.values.where(before < sampling.top_p, torch.zeros_like(before))
        probs_BV = torch.zeros_like(probs_BV).scatter(1, in_order.indices, values)
    mass_BV = probs_BV.cumsum(dim=-1)
    # Strictly above the draw: a token without mass is never met.
    wanted = (draws_B * mass_BV[:, -1]).unsqueeze(1)
    return torch.searchsorted(mass_BV, wanted, right=True).squeeze(1).clamp(max=vocab_size - 1)
