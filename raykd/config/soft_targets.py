"""`soft_targets`: what of the teacher's distribution travels to the student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raykd.config.section import Section


class SoftTargetsConfig(Section):
    """The codec and its size."""

    codec: Literal["top_k"] = Field(
        "top_k",
        description="`top_k`: the k likeliest ids, their logprobs, and the mass of all others.",
    )
    top_k: int = Field(64, ge=1, description="Ids kept for each token.")
