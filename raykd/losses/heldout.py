"""How close a student is to its teacher on held-out tokens: sums that add up over batches.

M tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raykd.losses.buckets import BucketTargets
from raykd.losses.divergences import forward_kl_per_token


@dataclass(frozen=True)
class HeldoutSums:
    """Sums over tokens; divide by `tokens` for means."""

    tokens: float = 0.0
    kl: float = 0.0
    """Nats, over the teacher's kept ids and one bucket for all others."""
    agreed: float = 0.0
    """Tokens where both sides' likeliest id is the same."""
    cross_entropy: float = 0.0
    """Nats, of the token that really follows."""

    def __add__(self, other: HeldoutSums) -> HeldoutSums:
        return HeldoutSums(
            self.tokens + other.tokens,
            self.kl + other.kl,
            self.agreed + other.agreed,
            self.cross_entropy + other.cross_entropy,
        )


@torch.no_grad()
def heldout_sums(
    logits_MV: torch.Tensor,
    label_ids_M: torch.Tensor,
    targets: BucketTargets,
) -> HeldoutSums:
    """Measure one batch at temperature 1.

    Args:
        logits_MV: The student's.
        label_ids_M: The token that follows.
        targets: The teacher's, ids likeliest first, the tail at temperature 1.
    """
    logits_MV = logits_MV.float()
    kl_M = forward_kl_per_token(logits_MV, targets)
    nll_M = torch.nn.functional.cross_entropy(logits_MV, label_ids_M, reduction="sum")
    return HeldoutSums(
        tokens=float(len(label_ids_M)),
        kl=kl_M.double().sum().item(),
        agreed=float((logits_MV.argmax(-1) == targets.ids_TK[:, 0]).sum().item()),
        cross_entropy=nll_M.double().item(),
    )
