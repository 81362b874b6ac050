"""The loss of one block of tokens, whose logits it turns into their gradient, in place.

With s the student's softmax at temperature tau, q_b the mass of bucket b, g_b the gradient of the
loss by log q_b and G their sum, the gradient by logit v / tau is

    g_v - G q_v                             where v has a bucket of its own,
    (g_tail - G q_tail) (s_v / q_tail)      where v lies in the tail.

Cross-entropy with weight c adds c (s_v - [v is the label]) at temperature 1: where tau is 1 it
shares the softmax, so that G becomes G - c.

Shapes: R tokens of the block, V vocabulary ids, K ids kept, U ids drawn, B buckets (K and the tail,
or all V ids), 1 an axis of length one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from raykd.losses.blocks import exp_
from raykd.losses.objective import divergence_gradient, weighted_divergence
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, SampledTargets
from raykd.losses.teacher import TeacherLogits, teacher_buckets, teacher_log_probs

BlockTargets = BucketTargets | SampledTargets | TeacherLogits


@dataclass(frozen=True, eq=False)
class Share:
    """How much of the total a token's divergence and cross-entropy are; None: learn nothing of it.

    Attributes:
        divergence_R1: weight (1 - alpha) temperature^2.
        labels_R1: weight alpha.
    """

    divergence_R1: torch.Tensor | None = None
    labels_R1: torch.Tensor | None = None

    @property
    def learns(self) -> bool:
        """Whether there is a gradient at all."""
        return self.divergence_R1 is not None or self.labels_R1 is not None

    def rows(self, rows: slice) -> Share:
        """The same of some tokens."""
        return Share(
            None if self.divergence_R1 is None else self.divergence_R1[rows],
            None if self.labels_R1 is None else self.labels_R1[rows],
        )


def block_loss_(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    targets: BlockTargets | None,
    spec: LossSpec,
    share: Share,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return each token's divergence and -log probability of its label; overwrite the logits.

    Args:
        logits_RV: float32 or float64, at temperature 1. Afterwards the gradient of the total by
            them, or rubbish where `share` is empty.
        labels_R: int64, in [0, V).
        targets: None leaves the divergence out.
        spec: As given.
        share: Of both parts in the total.

    Returns:
        [R] nats, without weights or temperature^2, the first None without targets; and [R] nats.
    """
    if targets is None or not spec.divergences:
        return None, _label_loss_(logits_RV, labels_R, share.labels_R1)

    if spec.temperature == 1.0 and (share.labels_R1 is None or share.divergence_R1 is not None):
        value_R, nll_R = _divergence_(logits_RV, labels_R, targets, spec, share)
        if share.labels_R1 is not None:
            logits_RV.scatter_add_(1, labels_R[:, None], -share.labels_R1)
        return value_R, nll_R

    label_RV = logits_RV.clone()
    nll_R = _label_loss_(label_RV, labels_R, share.labels_R1)
    logits_RV.mul_(1.0 / spec.temperature)
    tempered = Share(
        None if share.divergence_R1 is None else share.divergence_R1 / spec.temperature
    )
    value_R, _ = _divergence_(logits_RV, labels_R, targets, spec, tempered)
    if share.labels_R1 is not None:
        if share.divergence_R1 is None:
            logits_RV.copy_(label_RV)
        else:
            logits_RV.add_(label_RV)
    return value_R, nll_R


def _divergence_(
    work_RV: torch.Tensor,
    labels_R: torch.Tensor,
    targets: BlockTargets,
    spec: LossSpec,
    share: Share,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return divergence and -log probability of the label, both of softmax(work).

    Afterwards `work` holds the gradient but for the label's own entry.
    """
    match targets:
        case BucketTargets():
            return _bucket_divergence_(work_RV, labels_R, targets, spec, share)
        case SampledTargets():
            return _sampled_divergence_(work_RV, labels_R, targets, spec, share)
        case TeacherLogits():
            return _dense_divergence_(work_RV, labels_R, targets, spec, share)


def _bucket_divergence_(
    work_RV: torch.Tensor,
    labels_R: torch.Tensor,
    targets: BucketTargets,
    spec: LossSpec,
    share: Share,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_divergence_` over kept ids and the tail.

    The tail is a sum of its own, not "1 - kept", so that it keeps its digits however small it is.
    """
    ids_RK = targets.ids_TK.long()
    num_kept, vocab_size = ids_RK.shape[1], work_RV.shape[1]
    has_tail = num_kept < vocab_size
    label_logit_R = work_RV.gather(1, labels_R[:, None])[:, 0]
    log_q_RB = work_RV.gather(1, ids_RK)
    log_z_R = log_q_RB.logsumexp(1)
    if has_tail:
        shift_R, sum_R = exp_(work_RV.scatter_(1, ids_RK, -math.inf))
        log_tail_R = shift_R + sum_R.log()
        log_z_R = torch.logaddexp(log_z_R, log_tail_R)
        log_q_RB = torch.cat([log_q_RB, log_tail_R[:, None]], 1)
    log_q_RB = log_q_RB - log_z_R[:, None]
    nll_R = log_z_R - label_logit_R

    log_p_RB = teacher_buckets(targets, spec.temperature, vocab_size, work_RV.dtype)
    if share.divergence_R1 is None:
        return weighted_divergence(log_p_RB, log_q_RB, spec, has_tail=has_tail), nll_R
    value_R, g_RB = divergence_gradient(log_p_RB, log_q_RB, spec, has_tail=has_tail)
    pushed_RB, pull_R1 = _push_and_pull(g_RB, share)
    d_RB = pushed_RB - pull_R1 * log_q_RB.exp()
    if has_tail:
        work_RV.mul_(d_RB[:, num_kept:] / sum_R.clamp_min(1.0)[:, None])
    work_RV.scatter_(1, ids_RK, d_RB[:, :num_kept])
    return value_R, nll_R


def _dense_divergence_(
    work_RV: torch.Tensor,
    labels_R: torch.Tensor,
    targets: TeacherLogits,
    spec: LossSpec,
    share: Share,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_divergence_` over all ids."""
    log_p_RV = teacher_log_probs(targets, spec.temperature, work_RV.dtype)
    log_q_RV = work_RV.log_softmax(1)
    nll_R = -log_q_RV.gather(1, labels_R[:, None])[:, 0]
    if share.divergence_R1 is None:
        return weighted_divergence(log_p_RV, log_q_RV, spec, has_tail=False), nll_R
    value_R, g_RV = divergence_gradient(log_p_RV, log_q_RV, spec, has_tail=False)
    pushed_RV, pull_R1 = _push_and_pull(g_RV, share)
    torch.exp(log_q_RV, out=work_RV).mul_(-pull_R1).add_(pushed_RV)
    return value_R, nll_R


def _sampled_divergence_(
    work_RV: torch.Tensor,
    labels_R: torch.Tensor,
    targets: SampledTargets,
    spec: LossSpec,
    share: Share,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_divergence_` for forward KL, in expectation over the drawn ids."""
    ids_RU, weights_RU = targets.ids_TU.long(), targets.weights_TU.to(work_RV.dtype)
    factor = spec.divergences[0][1]
    label_logit_R = work_RV.gather(1, labels_R[:, None])[:, 0]
    drawn_RU = work_RV.gather(1, ids_RU)
    shift_R, sum_R = exp_(work_RV)
    log_z_R = shift_R + sum_R.log()
    gap_RU = (log_z_R[:, None] - drawn_RU).masked_fill_(weights_RU == 0.0, 0.0)
    value_R = ((weights_RU * gap_RU).sum(1) - targets.entropy_T.to(work_RV.dtype)) * factor
    if share.divergence_R1 is not None:
        pushed_RU, pull_R1 = _push_and_pull(-factor * weights_RU, share)
        work_RV.mul_(-pull_R1 / sum_R.clamp_min(1.0)[:, None]).scatter_add_(1, ids_RU, pushed_RU)
    return value_R, log_z_R - label_logit_R


def _label_loss_(
    work_RV: torch.Tensor, labels_R: torch.Tensor, weight_R1: torch.Tensor | None
) -> torch.Tensor:
    """Return -log probability of the label; afterwards `work` holds its gradient if weighted."""
    label_logit_R = work_RV.gather(1, labels_R[:, None])[:, 0]
    shift_R, sum_R = exp_(work_RV)
    if weight_R1 is not None:
        work_RV.mul_(weight_R1 / sum_R.clamp_min(1.0)[:, None])
        work_RV.scatter_add_(1, labels_R[:, None], -weight_R1)
    return shift_R + sum_R.log() - label_logit_R


def _push_and_pull(g_RB: torch.Tensor, share: Share) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what pushes each logit by itself, and what pulls at all in proportion to their mass.

    The first takes the place of `g_RB`.
    """
    weight_R1 = share.divergence_R1
    assert weight_R1 is not None
    # A token of weight 0 may have an infinite gradient; 0 * inf is NaN.
    pushed_RB = g_RB.mul_(weight_R1).masked_fill_(weight_R1 == 0.0, 0.0)
    pull_R1 = pushed_RB.sum(1, keepdim=True)
    return pushed_RB, pull_R1 if share.labels_R1 is None else pull_R1 - share.labels_R1
