"""`teacher`: the model that knows, and the service that runs it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raykd.config.model import Device, Dtype, ModelConfig


class TeacherConfig(ModelConfig):
    """A sharded model kept running by Ray Serve."""

    engine: Literal["transformers"] = Field("transformers", description="What runs the model.")
    device: Device = Field(
        "gpu", description="`gpu` shards talk over NCCL, `cpu` shards over gloo."
    )
    dtype: Dtype = Field("bf16", description="Weights and activations.")
    tensor_parallel: int = Field(1, ge=1, description="Shards of one replica, one actor each.")
    replicas: int = Field(1, ge=1, description="Copies of the teacher; each has all its shards.")
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
        900.0, gt=0, description="Longest wait for all replicas to be ready."
    )
    request_timeout_s: float = Field(300.0, gt=0, description="Longest one request may take.")
    max_retries: int = Field(
        5, ge=0, description="Times a failed request goes to a replica again before the run stops."
    )

    @property
    def threads(self) -> int:
        """torch threads of a CPU shard."""
        return self.threads_per_shard or math.ceil(self.cpus_per_shard)
