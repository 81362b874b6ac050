"""What a classifier minimises: soft labels, hard labels, and likeness of hidden states.

Shapes: M positions, C outputs, H hidden size, W gold values a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from raykd.losses.fused import LossParts

ONE_OF: Final = ("single_label", "tokens")
"""Tasks whose outputs are the logits of one distribution."""


@dataclass(frozen=True)
class LabelLossSpec:
    """The loss of a position is

        s * temperature^2 * soft + h * hard + cosine * (1 - cos(hidden, teacher's hidden)),

    s = 1 - alpha and h = alpha where its gold label is known, s = 1 and h = 0 where not.
    `soft` and `hard` are, by task: forward KL and cross-entropy (`single_label`, `tokens`); the
    mean over labels of the same for each label's two outcomes (`multi_label`); squared differences
    (`regression`); 1 - cosine or the mean squared difference (`embedding`, which has no `hard`).

    Attributes:
        task: As in a job.
        temperature: Above 0; of `soft` only.
        alpha: In [0, 1].
        cosine: 0 or more.
        when_teacher_is_wrong: `learn`; `drop` makes both weights 0 where the teacher's label is not
            the gold one, `hard_label` makes them s = 0 and h = 1.
        embedding_loss: `cosine` or `mse`.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2; DistilBERT (arXiv 1910.01108),
        section 3, for the cosine.
    """

    task: str
    temperature: float = 1.0
    alpha: float = 0.0
    cosine: float = 0.0
    when_teacher_is_wrong: str = "learn"
    embedding_loss: str = "cosine"


@dataclass(frozen=True, eq=False)
class LabelTargets:
    """What is known of M positions.

    Attributes:
        outputs_MC: The teacher's, floats; None where nobody asks it.
        hidden_MH: Its last hidden states, floats; where `cosine` is above 0.
        gold_MW: Floats, NaN where unknown: the number of the label, 0 or 1 for each label, or a
            number; None where the task has none.
    """

    outputs_MC: torch.Tensor | None
    hidden_MH: torch.Tensor | None
    gold_MW: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class PositionWeights:
    """s and h of each position, [M], float64."""

    soft_M: torch.Tensor
    hard_M: torch.Tensor

    @property
    def learned(self) -> torch.Tensor:
        """1 where a position is learned from at all, [M]: what the mean is over."""
        return ((self.soft_M > 0) | (self.hard_M > 0)).float()


def position_weights(targets: LabelTargets, spec: LabelLossSpec, num: int) -> PositionWeights:
    """Weigh soft against hard, position by position.

    Args:
        targets: Of `num` positions.
        spec: The loss.
        num: M.
    """
    teacher_MC, gold_MW = targets.outputs_MC, targets.gold_MW
    tensor = teacher_MC if teacher_MC is not None else gold_MW
    device = tensor.device if tensor is not None else None
    known_M = torch.zeros(num, dtype=torch.bool, device=device)
    if gold_MW is not None and spec.task != "embedding":
        known_M = ~gold_MW.isnan().any(1)
    hard_M = spec.alpha * known_M.double()
    soft_M = 1.0 - hard_M
    if teacher_MC is None:
        return PositionWeights(torch.zeros_like(soft_M), hard_M)
    if spec.when_teacher_is_wrong != "learn" and gold_MW is not None:
        wrong_M = known_M & ~_agrees(teacher_MC, gold_MW, spec.task)
        soft_M = soft_M.masked_fill(wrong_M, 0.0)
        instead = 1.0 if spec.when_teacher_is_wrong == "hard_label" else 0.0
        hard_M = hard_M.masked_fill(wrong_M, instead)
    return PositionWeights(soft_M, hard_M)


def _agrees(teacher_MC: torch.Tensor, gold_MW: torch.Tensor, task: str) -> torch.Tensor:
    """Whether the teacher's labels are the gold ones [M]."""
    if task in ONE_OF:
        return teacher_MC.argmax(1) == gold_MW[:, 0]
    return ((teacher_MC > 0) == (gold_MW > 0.5)).all(1)


def label_loss(
    outputs_MC: torch.Tensor,
    hidden_MH: torch.Tensor | None,
    targets: LabelTargets,
    weights: PositionWeights,
    spec: LabelLossSpec,
) -> LossParts:
    """Return the sums over positions, reckoned in float32 (float64 for float64).

    Args:
        outputs_MC: The student's.
        hidden_MH: Its last hidden states; where `spec.cosine` is above 0.
        targets: What is known.
        weights: Of `position_weights`.
        spec: What is minimised.

    Returns:
        `total` with the gradient; `divergence`, the part that is learned from the teacher, and
        `cross_entropy`, that from gold labels, both without their weights s and h, over the
        positions where these are above 0.
    """
    student_MC = _wide(outputs_MC)
    # A sum over no position too must reach every weight, so that ranks keep step.
    total = student_MC.sum() * 0.0
    divergence = cross_entropy = total.detach()
    if targets.outputs_MC is not None:
        soft_M = _soft(student_MC, targets.outputs_MC.to(student_MC.dtype), spec)
        total = total + (weights.soft_M.to(soft_M.dtype) * soft_M).sum()
        divergence = soft_M.detach()[weights.soft_M > 0].sum()
    if targets.gold_MW is not None and spec.task != "embedding":
        hard_M = _hard(student_MC, targets.gold_MW.to(student_MC.dtype), spec.task)
        total = total + (weights.hard_M.to(hard_M.dtype) * hard_M).sum()
        cross_entropy = hard_M.detach()[weights.hard_M > 0].sum()
    if spec.cosine > 0:
        assert hidden_MH is not None, "the student was asked for them"
        assert targets.hidden_MH is not None, "so was the teacher"
        apart_M = 1.0 - functional.cosine_similarity(
            _wide(hidden_MH), targets.hidden_MH.to(student_MC.dtype), dim=1
        )
        learned_M = (weights.soft_M > 0).to(apart_M.dtype)
        total = total + spec.cosine * (learned_M * apart_M).sum()
    return LossParts(total, divergence if targets.outputs_MC is not None else None, cross_entropy)


def _soft(student_MC: torch.Tensor, teacher_MC: torch.Tensor, spec: LabelLossSpec) -> torch.Tensor:
    """temperature^2 times the distance to the teacher's outputs [M]."""
    tau = spec.temperature
    if spec.task in ONE_OF:
        log_q_MC = (student_MC / tau).log_softmax(1)
        log_p_MC = (teacher_MC / tau).log_softmax(1)
        return tau**2 * (log_p_MC.exp() * (log_p_MC - log_q_MC)).sum(1)
    if spec.task == "multi_label":
        return tau**2 * _two_outcomes_kl(teacher_MC / tau, student_MC / tau).mean(1)
    if spec.task == "embedding" and spec.embedding_loss == "cosine":
        return 1.0 - functional.cosine_similarity(student_MC, teacher_MC, dim=1)
    return (student_MC - teacher_MC).square().mean(1)


def _two_outcomes_kl(teacher_MC: torch.Tensor, student_MC: torch.Tensor) -> torch.Tensor:
    """Forward KL between the Bernoulli distributions of logits, each label by itself."""
    p_MC = teacher_MC.sigmoid()
    yes = functional.logsigmoid(teacher_MC) - functional.logsigmoid(student_MC)
    no = functional.logsigmoid(-teacher_MC) - functional.logsigmoid(-student_MC)
    return p_MC * yes + (1.0 - p_MC) * no


def _hard(student_MC: torch.Tensor, gold_MW: torch.Tensor, task: str) -> torch.Tensor:
    """Distance to the gold labels [M]; 0 where nothing is known."""
    known_M = ~gold_MW.isnan().any(1)
    gold_MW = gold_MW.nan_to_num(0.0)
    if task in ONE_OF:
        labels_M = gold_MW[:, 0].long()
        distance_M = functional.cross_entropy(student_MC, labels_M, reduction="none")
    elif task == "multi_label":
        each_MC = functional.binary_cross_entropy_with_logits(student_MC, gold_MW, reduction="none")
        distance_M = each_MC.mean(1)
    else:
        distance_M = (student_MC - gold_MW).square().mean(1)
    return distance_M * known_M.to(distance_M.dtype)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
