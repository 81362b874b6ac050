"""`soft_targets`: what of the teacher's distribution travels to the student."""

from __future__ import annotations

import math
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from raykd.config.section import Section

CodecName = Literal["top_k", "sampled", "hidden", "full", "auto"]

StoreMode = Literal["use", "fill", "only", "off"]

OWNERS: Final = {
    "top_k": ("top_k",),
    "values": ("top_k", "full"),
    "tail": ("top_k",),
    "temperatures": ("top_k",),
    "draws": ("sampled",),
    "proposal_temperature": ("sampled",),
    "hidden_values": ("hidden",),
}
"""The codecs that look at each key; given to another, it would change nothing."""

WIDTHS_OF_FULL: Final = ("fp32", "bf16")


class SoftTargetsConfig(Section):
    """The form in which the teacher's distribution of every token travels."""

    codec: CodecName = Field(
        "top_k",
        description="`top_k`: the likeliest ids and the mass of all others. `sampled`: about a "
        "dozen ids drawn at random, unbiased. `hidden`: the teacher's last hidden state, from "
        "which the student side makes every logit. `full`: every log probability, for small "
        "vocabularies. `auto`: what `raykd probe` recommends.",
    )
    top_k: int = Field(
        64,
        ge=1,
        description="`top_k`: ids kept for each token, with their log probabilities; the mass of "
        "all others travels beside them. With `teacher.endpoint.top_logprobs` the default is all "
        "that are told.",
    )
    values: Literal["fp32", "bf16", "int8", "int6"] | None = Field(
        None,
        description="`top_k` and `full`: width of a log probability; `int8` and `int6` are affine "
        "for each token. Default: `int8` for `top_k`, `bf16` for `full`.",
    )
    tail: bool = Field(
        True,
        description="`top_k`: keep the mass of the ids left out, exactly. Without it the student "
        "learns a distribution over the kept ids alone, which is biased.",
    )
    temperatures: list[float] = Field(
        default_factory=list,
        description="`top_k`: temperatures beside 1 and the loss's at which the tail is exact too, "
        "for students to come.",
    )
    draws: int = Field(
        50,
        ge=1,
        le=255,
        description="`sampled`: draws for each token; ids drawn more than once travel once.",
    )
    proposal_temperature: float | None = Field(
        None,
        gt=0,
        description="`sampled`: temperature to draw at; importance weights undo it. Default: the "
        "loss's, where all weights are equal.",
    )
    hidden_values: Literal["fp32", "bf16", "int8"] = Field(
        "bf16", description="`hidden`: width of a component; `int8` has a scale for each token."
    )

    store: str | None = Field(
        None,
        description="Where soft targets are kept, for all runs and students that share it: a "
        "directory that every node sees, or a URI of object storage (`s3://`, `gs://`). Default: "
        "`.soft_targets` in `storage_path`.",
    )
    store_mode: StoreMode = Field(
        "use",
        description="`use`: rows that are kept there are read, all others are asked for and kept; "
        "where all are there, no teacher starts. `fill`: ask for all rows first, then let the "
        "teacher go and train. `only`: never start a teacher. `off`: keep nothing.",
    )

    @field_validator("store_mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, mode: object) -> object:
        """YAML reads `off` as false."""
        return "off" if mode is False else mode

    @property
    def width(self) -> str:
        """Width of a log probability, the codec's default filled in."""
        return self.values or ("bf16" if self.codec == "full" else "int8")

    @model_validator(mode="after")
    def _keys_of_the_codec(self) -> Self:
        for key, codecs in OWNERS.items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if self.codec not in codecs and getattr(self, key) != default:
                names = " and ".join(f"`{codec}`" for codec in codecs)
                raise ValueError(
                    f"{key} is of codec {names}; with `codec: {self.codec}` it would "
                    "change nothing: remove it"
                )
        if self.codec == "full" and self.width not in WIDTHS_OF_FULL:
            raise ValueError(
                f"values: `full` keeps {' or '.join(WIDTHS_OF_FULL)}; found {self.values}"
            )
        if self.store is not None and self.store_mode == "off":
            raise ValueError("store: with `store_mode: off` it would change nothing: remove it")
        if not all(math.isfinite(t) and t > 0 for t in self.temperatures):
            raise ValueError(f"temperatures must all be above 0; found {self.temperatures}")
        return self
