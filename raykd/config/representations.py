"""`representations`: what the student learns from inside the teacher."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from raykd.config.section import Section

Relation = Literal["query", "key", "value"]
RELATIONS: Final = ("query", "key", "value")


class HiddenLoss(Section):
    """Hidden states, layer by layer: the mean over positions and mapped layers."""

    weight: float = Field(1.0, gt=0, description="Of this loss in the sum.")
    loss: Literal["cosine", "mse"] = Field(
        "cosine",
        description="`cosine`: one less the cosine of both states, as DistilBERT. `mse`: the mean "
        "square of their difference, in the teacher's own units.",
    )


class AttentionLoss(Section):
    """Attention relations of the last mapped layer: the mean over positions, heads, relations."""

    weight: float = Field(1.0, gt=0, description="Of this loss in the sum.")
    relations: list[Relation] = Field(
        list(RELATIONS),
        description="Which of the layer's projections are compared with themselves: `query`, "
        "`key`, `value`.",
    )
    heads: int | None = Field(
        None,
        ge=1,
        description="Relation heads: each projection is cut into so many, whatever the attention "
        "heads are. Default: the greatest number that divides both sides' query heads and "
        "key-value heads.",
    )

    @field_validator("relations")
    @classmethod
    def _each_once(cls, relations: list[Relation]) -> list[Relation]:
        if not relations or len(set(relations)) != len(relations):
            raise ValueError(
                f"one or more of {', '.join(RELATIONS)}, each once; found {', '.join(relations)}"
            )
        return relations


class RepresentationsConfig(Section):
    """Inner states of chosen layers that the student learns to have, added to the loss."""

    layers: Literal["even", "last"] | dict[int, int] = Field(
        "last",
        description="Which student layer learns from which teacher layer, both from 0: "
        "`{3: 7, 5: 11}`; or `last`, the last from the last; or `even`, every student layer, "
        "evenly spread over the teacher's and the last from the last.",
    )
    hidden: HiddenLoss | None = Field(None, description="Compare what the layers put out.")
    attention: AttentionLoss | None = Field(
        None, description="Compare how tokens relate within the last mapped layer, as MiniLM."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _word_or_map(cls, layers: Any) -> Any:
        """One complaint, where a union would make one for each of its types."""
        if layers in ("even", "last"):
            return layers
        if isinstance(layers, dict) and layers:
            try:
                pairs = {int(key): int(value) for key, value in layers.items()}
            except (TypeError, ValueError):
                pairs = {}
            if pairs and min(*pairs, *pairs.values()) >= 0:
                return pairs
        raise ValueError(
            "even, last, or a map from student layer to teacher layer, both from 0, such as "
            f"{{3: 7, 5: 11}}; found {layers!r}"
        )

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        if self.hidden is None and self.attention is None:
            raise ValueError("give `hidden`, `attention` or both; without, nothing is compared")
        return self
