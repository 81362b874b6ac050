"""What a student minimises, in numbers: weighted divergences, temperature, cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

DIVERGENCES: Final = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skewed_kl",
    "skewed_reverse_kl",
    "adaptive_kl",
    "total_variation",
)


@dataclass(frozen=True)
class LossSpec:
    """The loss of a token is

        weight * [(1 - alpha) temperature^2 sum_i w_i D_i(p, q) + alpha cross_entropy],

    p and q teacher and student at `temperature`, cross-entropy at temperature 1. The square keeps
    the gradient's size as the temperature rises; it is here and nowhere else.

    Attributes:
        divergences: (name out of `DIVERGENCES`, weight above 0), each name once; may be empty only
            where alpha is 1.
        temperature: Above 0; of the divergences only.
        alpha: In [0, 1], weight of cross-entropy.
        beta: In (0, 1), weight of the teacher in the mixture of `jsd`.
        skew: In [0, 1), lambda of `skewed_kl` and `skewed_reverse_kl`.
        head_mass: In (0, 1), the teacher's mass that `adaptive_kl` calls the head.

    Raises:
        ValueError: A number is not as said.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, for the mixture and the square.
    """

    divergences: tuple[tuple[str, float], ...]
    temperature: float = 1.0
    alpha: float = 0.0
    beta: float = 0.5
    skew: float = 0.1
    head_mass: float = 0.5

    def __post_init__(self) -> None:
        _require(0.0 < self.temperature < math.inf, "temperature", "be above 0", self.temperature)
        _require(0.0 <= self.alpha <= 1.0, "alpha", "lie in [0, 1]", self.alpha)
        _require(0.0 < self.beta < 1.0, "beta", "lie in (0, 1)", self.beta)
        _require(0.0 <= self.skew < 1.0, "skew", "lie in [0, 1)", self.skew)
        _require(0.0 < self.head_mass < 1.0, "head_mass", "lie in (0, 1)", self.head_mass)
        for name, weight in self.divergences:
            if name not in DIVERGENCES:
                raise ValueError(
                    f"divergences: each must be one of {', '.join(DIVERGENCES)}; found {name!r}"
                )
            _require(
                0.0 < weight < math.inf, f"divergences: weight of {name}", "be above 0", weight
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"divergences: each may be named once; found {', '.join(self.names)}")
        if not self.divergences and self.alpha < 1.0:
            raise ValueError(
                f"divergences: empty is for plain fine-tuning, alpha 1; alpha is {self.alpha}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The divergences' names."""
        return tuple(name for name, _ in self.divergences)


def _require(holds: bool, field: str, must: str, found: float) -> None:
    if not holds:
        raise ValueError(f"{field} must {must}; found {found}")
