"""`soft_targets`: what of the teacher's distribution travels to the student."""

from __future__ import annotations

from pydantic import Field

from raykd.config.section import Section


class SoftTargetsConfig(Section):
    """The teacher's likeliest tokens, and the mass of all others."""

    top_k: int = Field(
        64,
        ge=1,
        description="Ids kept for each token, likeliest first, with their log probabilities; the "
        "mass of all others travels beside them.",
    )
