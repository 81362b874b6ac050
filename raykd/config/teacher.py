"""`teacher`: the model that knows, and the service that runs it."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from raykd.config import mixture, of_slices, rules_endpoint, rules_vllm
from raykd.config.endpoint import EndpointConfig
from raykd.config.method import EngineName
from raykd.config.mixture import MixedInConfig
from raykd.config.model import Device, Dtype, ModelConfig
from raykd.config.of_slices import OfSliceConfig
from raykd.config.section import Section
from raykd.config.vllm import VllmConfig


class ReplicaRange(Section):
    """An elastic teacher: as many replicas as the students' demand keeps busy."""

    min: int = Field(1, ge=0, description="Fewest; 0 frees everything while nobody asks.")
    max: int = Field(ge=1, description="Most; a full window of requests brings them all up.")
    upscale_delay_s: float = Field(
        10.0, ge=0, description="How long demand must last before replicas are added."
    )
    downscale_delay_s: float = Field(
        120.0, ge=0, description="How long demand must be lower before replicas are taken away."
    )

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) exceeds max ({self.max})")
        return self


class TeacherConfig(ModelConfig):
    """A sharded model kept running by Ray Serve."""

    engine: EngineName = Field(
        "transformers",
        description="What runs the model: `transformers`, `vllm`, or `openai`, an endpoint. "
        "`none` asks nobody: a classifier learns from labels alone, and `model` lends its "
        "tokenizer.",
    )
    endpoint: EndpointConfig | None = Field(
        None,
        description="`engine: openai` only: where the model is and what may be spent on it; "
        "`model` is its name there.",
    )
    vllm: VllmConfig | None = Field(
        None, description="`engine: vllm` only: what vLLM has to know beside the keys here."
    )
    mixed_in: list[MixedInConfig] = Field(
        default_factory=list,
        description="`engine: transformers` only: other models with the same tokenizer; what the "
        "student learns from is the weighted average of all distributions. Every shard holds a "
        "part of each.",
    )
    of_slices: dict[str, OfSliceConfig] = Field(
        default_factory=dict,
        description="`engine: transformers` only: models with the same tokenizer by the slice of "
        "the data that each teaches alone (`columns.slice`); `model` teaches all others. Every "
        "shard holds a part of each.",
    )
    device: Device = Field(
        "gpu", description="`gpu` shards talk over NCCL, `cpu` shards over gloo."
    )
    dtype: Dtype = Field("bf16", description="Weights and activations.")
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Shards of one replica, all on one node; each has a part of all layers.",
    )
    pipeline_parallel: int = Field(
        1,
        ge=1,
        description="`engine: vllm` only: stages of one replica, each of `tensor_parallel` shards; "
        "they may stand on different nodes.",
    )
    replicas: int | ReplicaRange = Field(
        1,
        description="Copies of the teacher; each has all its shards. A number of at least 1 stays "
        "as it is, `{min: 1, max: 4}` follows the students' demand.",
    )
    cpus_per_shard: float = Field(1.0, gt=0, description="CPUs that a shard reserves.")
    threads_per_shard: int | None = Field(
        None,
        ge=1,
        description="torch threads of a CPU shard; default: `cpus_per_shard`, rounded up.",
    )
    micro_batch_tokens: int = Field(
        8192, ge=1, description="Tokens (padding included) in one forward pass."
    )
    head_chunk_tokens: int = Field(
        1024,
        ge=1,
        description="Tokens whose logits exist at once; more never do.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Node labels that every shard's node must carry."
    )
    start_timeout_s: float = Field(
        900.0,
        gt=0,
        description="Longest wait for the first replicas to be ready; later, the longest that a "
        "request waits while no replica runs.",
    )
    request_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Longest that a replica may work on one request; waiting for its turn does "
        "not count.",
    )
    max_retries: int = Field(
        5,
        ge=0,
        description="Times a request that was lost with its replica goes to another. What the "
        "engine itself refuses is tried once more only.",
    )

    @field_validator("replicas", mode="before")
    @classmethod
    def _number_or_range(cls, value: Any) -> Any:
        """One complaint, where a union would make one for each of its types."""
        if isinstance(value, dict):
            try:
                return ReplicaRange.model_validate(value)
            except ValidationError as error:
                raise ValueError("; ".join(map(_told, error.errors()))) from None
        if isinstance(value, ReplicaRange) or (type(value) is int and value >= 1):
            return value
        raise ValueError("a whole number of at least 1, or a range such as {min: 1, max: 4}")

    @model_validator(mode="after")
    def _endpoint_fits(self) -> Self:
        rules_endpoint.check_teacher(self)
        return self

    @model_validator(mode="after")
    def _mixture_fits(self) -> Self:
        mixture.check_teacher(self)
        of_slices.check_teacher(self)
        return self

    @model_validator(mode="after")
    def _vllm_fits(self) -> Self:
        rules_vllm.check_teacher(self)
        return self

    @property
    def num_shards(self) -> int:
        """Shards that hold one copy together, each with its GPU or CPUs."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def is_asked(self) -> bool:
        """False where it only lends its tokenizer, and maybe its layers."""
        return self.engine != "none"

    @property
    def min_replicas(self) -> int:
        """Fewest replicas while the run lasts."""
        return self.replicas.min if isinstance(self.replicas, ReplicaRange) else self.replicas

    @property
    def max_replicas(self) -> int:
        """Most replicas while the run lasts."""
        return self.replicas.max if isinstance(self.replicas, ReplicaRange) else self.replicas

    @property
    def first_replicas(self) -> int:
        """Replicas that the run begins with, and needs room for."""
        return max(1, self.min_replicas)

    @property
    def elastic(self) -> ReplicaRange | None:
        """The range that demand moves in; None where their number is fixed."""
        fixed = self.min_replicas == self.max_replicas
        return None if fixed or isinstance(self.replicas, int) else self.replicas

    @property
    def threads(self) -> int:
        """torch threads of a CPU shard."""
        return self.threads_per_shard or math.ceil(self.cpus_per_shard)


def _told(error: Any) -> str:
    """One complaint about a range, with its key before it."""
    message = error["msg"].removeprefix("Value error, ")
    return ": ".join([*map(str, error["loc"]), message[0].lower() + message[1:]])
