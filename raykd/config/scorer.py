"""`generation.scorer`: a reward model that says which completion of a prompt is best."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from raykd.config.model import Device, Dtype, ModelConfig


class ScorerConfig(ModelConfig):
    """A model of one output: the higher, the better the answer to its prompt."""

    dtype: Dtype = Field("bf16", description="Weights and arithmetic.")
    device: Device = Field(
        "gpu", description="`gpu` takes a whole one while it judges, beside the teacher's."
    )
    threads: int = Field(1, ge=1, description="CPU threads that it computes with.")

    @model_validator(mode="after")
    def _no_gguf(self) -> Self:
        if self.gguf_file is not None:
            raise ValueError("gguf_file: a scorer is opened from safetensors; remove it")
        return self
