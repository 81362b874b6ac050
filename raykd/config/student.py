"""`student`: the model that learns, and the ranks that train it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from raykd.config.model import Device, Dtype, ModelConfig
from raykd.config.section import Section


class FromPretrained(ModelConfig):
    """Go on from existing weights."""

    start: Literal["pretrained"] = Field(description="Load `model` as it is.")


class FromConfig(Section):
    """Fresh random weights, drawn from the job's seed."""

    start: Literal["config"] = Field(description="Build from `config` with fresh weights.")
    config: dict[str, Any] = Field(
        description="A `transformers` model configuration: `model_type` and its fields."
    )


class FromTeacher(Section):
    """Weights cut from the teacher: chosen layers, leading widths, as DistilBERT was made."""

    start: Literal["teacher"] = Field(description="Cut the student from the teacher.")
    layers: int | list[int] = Field(
        description="Which teacher layers to keep: their indices, or how many (evenly spaced, the "
        "first and the last among them)."
    )
    widths: dict[str, int] = Field(
        default_factory=dict,
        description="Smaller sizes by their name in the model's configuration, such as "
        "`intermediate_size: 1024`; leading rows and columns of the teacher's weights are kept.",
    )


Start = Annotated[FromPretrained | FromConfig | FromTeacher, Field(discriminator="start")]


class LoraConfig(Section):
    """Train low-rank adapters only (peft); the export has them merged."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Scale: the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapters' input.")
    target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="Names of the layers that get adapters."
    )


class StudentConfig(Section):
    """The student and its DeepSpeed ZeRO group."""

    init: Start = Field(description="Where its first weights come from.")
    device: Device = Field("gpu", description="`gpu` ranks talk over NCCL, `cpu` ranks over gloo.")
    dtype: Dtype = Field(
        "bf16", description="Weights and activations; bf16 keeps fp32 master weights."
    )
    num_workers: int = Field(1, ge=1, description="Ranks; on GPUs one each.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that a rank reserves.")
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="torch threads of a CPU rank; default: `cpus_per_worker`, rounded up.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="What ZeRO shards: 1 optimizer, 2 and gradients, 3 and parameters."
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="What lies in CPU memory: the optimizer's state, or `all`, the parameters too "
        "(ZeRO 3 only).",
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    lora: LoraConfig | None = Field(None, description="Train adapters instead of all weights.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Node labels that every rank's node must carry."
    )
    start_timeout_s: float = Field(
        900.0, gt=0, description="Longest wait for all ranks to get their resources."
    )

    @property
    def threads(self) -> int:
        """torch threads of a CPU rank."""
        return self.threads_per_worker or math.ceil(self.cpus_per_worker)

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("`offload: all` needs `zero_stage: 3`")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("`offload: optimizer` needs `zero_stage` 1, 2 or 3")
        return self
