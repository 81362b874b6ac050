"""The teacher's side, as log probabilities at the loss's temperature; no gradient.

Shapes: R tokens of one block, V vocabulary ids, K ids kept, B buckets (K + 1, or K where K == V).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raykd.losses.blocks import shape_
from raykd.losses.targets import BucketTargets, LogitShape


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """A chunk's worth of what a teacher's head put out, or of log probabilities kept as such."""

    logits_RV: torch.Tensor
    shape: LogitShape

    def rows(self, rows: slice) -> TeacherLogits:
        """The same of some tokens."""
        return TeacherLogits(self.logits_RV[rows], self.shape)


def teacher_buckets(
    targets: BucketTargets, temperature: float, vocab_size: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the teacher's log probability of each bucket at `temperature`, exactly normalised.

    Args:
        targets: K ids a token and the tail at the same temperature.
        temperature: Above 0.
        vocab_size: V of the student; K == V drops the tail's bucket.
        dtype: Of the result: float32 or float64.

    Returns:
        log_p_RB.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, the softened softmax.
    """
    scaled_RK = targets.logprobs_TK.to(dtype) / temperature
    if scaled_RK.shape[1] == vocab_size:
        return scaled_RK.log_softmax(1)
    log_tail_R1 = targets.log_tail_T.to(dtype)[:, None]
    log_z_R1 = torch.logaddexp(scaled_RK.logsumexp(1, keepdim=True), log_tail_R1)
    return torch.cat([scaled_RK, log_tail_R1], 1) - log_z_R1


def teacher_log_probs(
    teacher: TeacherLogits, temperature: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return log_p_RV of every id at `temperature`, normalised, in `dtype`."""
    work_RV = teacher.logits_RV.to(dtype, copy=True)
    shape_(work_RV, teacher.shape)
    if temperature != 1.0:
        work_RV.mul_(1.0 / temperature)
    return work_RV.log_softmax(1)
