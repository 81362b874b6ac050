"""`loss`: what the student minimises."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raykd.config.section import Section


class LossConfig(Section):
    """(1 - alpha) * temperature^2 * divergence + alpha * cross-entropy, a mean over kept tokens."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl", description="Distance from student to teacher over top-k and tail."
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
    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of cross-entropy on the text itself; 1 is plain fine-tuning, and no "
        "teacher starts for training.",
    )
