"""`loss`: what the student minimises."""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from raykd.config.section import Section

DIVERGENCES: Final = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skewed_kl",
    "skewed_reverse_kl",
    "adaptive_kl",
    "total_variation",
)

NEED_TAIL: Final = ("reverse_kl", "adaptive_kl")
"""Divergences that punish mass where the teacher has none."""

SERVED: Final = {"sampled": ("forward_kl",)}
"""Divergences that a codec can serve, where it cannot serve all."""


class TokenWeights(Section):
    """How much each token counts; the mean is over the weights."""

    teacher_confidence: float = Field(
        0.0,
        ge=0,
        description="Exponent of the teacher's probability of the token that really follows: 0 "
        "counts all tokens alike, 1 by that probability.",
    )
    drop_documents_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Documents whose learned tokens the teacher finds less likely than this, by "
        "geometric mean, are not learned from: it contradicts them, and one of the two is wrong. "
        "Of a long document each part in a row is judged by itself. 0 drops none.",
    )
    position_ramp_tokens: int = Field(
        0,
        ge=0,
        description="The first tokens of a document, which have little context, count less: the "
        "weight rises from nothing to 1 over this many tokens.",
    )

    @property
    def needs_confidence(self) -> bool:
        """Whether the teacher's probability of each token that follows has to be known."""
        return self.teacher_confidence > 0 or self.drop_documents_below > 0


class LossConfig(Section):
    """(1 - alpha) * temperature^2 * divergence + alpha * cross-entropy, a mean over kept tokens."""

    divergence: str | dict[str, float] = Field(
        "forward_kl",
        description="Distance from student to teacher: `forward_kl`, `reverse_kl`, `jsd`, "
        "`skewed_kl`, `skewed_reverse_kl`, `adaptive_kl` or `total_variation`; or a weighted sum: "
        "`{forward_kl: 0.7, reverse_kl: 0.3}`.",
    )
    temperature: float = Field(
        1.0, gt=0, description="Softens both distributions; its square scales the divergence once."
    )
    beta: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="`jsd` only: weight of the teacher in the mixture (0.5 is the symmetric one).",
    )
    skew: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="`skewed_kl` and `skewed_reverse_kl` only: share of the numerator's "
        "distribution in the mixture it is compared with.",
    )
    head_mass: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="`adaptive_kl` only: the teacher's mass that its likeliest ids, the head, "
        "make up.",
    )
    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of cross-entropy on the text itself; 1 is plain fine-tuning, and no "
        "teacher starts for training.",
    )
    token_weights: TokenWeights = Field(
        default_factory=TokenWeights, description="How much each token counts."
    )

    @property
    def divergences(self) -> dict[str, float]:
        """Name to weight."""
        given = self.divergence
        return {given: 1.0} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _divergences_are_known(self) -> Self:
        if not self.divergences:
            raise ValueError("divergence names none; give one, such as `forward_kl`")
        for name, weight in self.divergences.items():
            if name not in DIVERGENCES:
                raise ValueError(
                    f"divergence: there is no {name!r}; choose {', '.join(DIVERGENCES)}"
                )
            if not weight > 0:
                raise ValueError(
                    f"divergence: the weight of {name} must be above 0; found {weight:g}"
                )
        return self
