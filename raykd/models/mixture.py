"""Several models as one teacher: the average of what they say of the next token.

T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from raykd.models.load import ModelSource


@dataclass(frozen=True)
class MixedIn:
    """A model beside the first, and its share."""

    source: ModelSource
    weight: float


def mixture_logprobs(logits_TV: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Log probabilities of sum_i w_i softmax(logits_i), which are logits of that distribution.

    Args:
        logits_TV: Of each model, any float dtype.
        weights: Positive; they add up to 1.

    Returns:
        [T, V], float32.

    Source: Hinton et al. 2015, section 3 (the arithmetic mean of an ensemble's predictions).
    """
    mixed: torch.Tensor | None = None
    for logits, weight in zip(logits_TV, weights, strict=True):
        part = logits.float().log_softmax(-1).add_(math.log(weight))
        mixed = part if mixed is None else torch.logaddexp(mixed, part)
    assert mixed is not None, "there is one model at least"
    return mixed
