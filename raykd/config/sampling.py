"""How a teacher draws the text that it generates."""

from __future__ import annotations

from pydantic import Field

from raykd.config.section import Section


class SamplingConfig(Section):
    """What every engine that generates understands; seeds travel with each prompt."""

    max_new_tokens: int = Field(512, ge=1, description="Longest completion.")
    temperature: float = Field(
        0.0, ge=0, description="0 takes the likeliest token; 1 draws from the model as it is."
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the likeliest tokens that make up this mass."
    )
    top_k: int | None = Field(
        None, ge=1, description="Draw from this many likeliest tokens; none is all."
    )
    stop: list[str] = Field(
        default_factory=list, description="A completion ends before the first of these strings."
    )
