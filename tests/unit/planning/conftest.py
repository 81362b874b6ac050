"""Models and clusters that several tests plan with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.clusters.hardware import Hardware, NodeType
from raykd.planning.accelerators import read_accelerators
from raykd.planning.families import shape_of
from raykd.planning.fitting import Surroundings
from raykd.planning.model_files import Models

TEACHER: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
STUDENT: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
ON_GPUS: dict[str, Any] = {
    "data.sequence_length_tokens": 4096,
    "teacher.device": "gpu",
    "teacher.dtype": "bf16",
    "teacher.tensor_parallel": 2,
    "teacher.replicas": 4,
    "teacher.cpus_per_shard": 2,
    "teacher.micro_batch_tokens": 32768,
    "teacher.head_chunk_tokens": 2048,
    "student.device": "gpu",
    "student.dtype": "bf16",
    "student.num_workers": 8,
    "student.cpus_per_worker": 4,
    "student.zero_stage": 2,
    "student.activation_checkpointing": True,
    "train.global_batch": 256,
    "train.micro_batch": 4,
    "train.max_steps": None,
    "stream.num_loaders": 4,
    "stream.cpus_per_loader": 1,
}
"""Changes that make the tiny job one for sixteen GPUs."""


@pytest.fixture
def models() -> Models:
    """An 8B teacher and a 1.7B student."""
    return Models(shape_of(TEACHER, "teacher"), shape_of(STUDENT, "student"), "here", "here")


@pytest.fixture
def make_gpu_job(make_job: Callable[..., Any]) -> Callable[..., Any]:
    """A job for GPUs with some fields changed."""
    return lambda changes=None: make_job({**ON_GPUS, **(changes or {})})


@pytest.fixture
def hardware() -> Hardware:
    """A head, two nodes of eight H100 for each role."""
    gib = 2**30
    gpu_nodes = [
        NodeType(
            role,
            role,
            {"raykd-role": role},
            0,
            2,
            96,
            8,
            memory_bytes=1024 * gib,
            accelerator="H100",
            instance="p5.48xlarge",
            spot=role == "teacher",
        )
        for role in ("teacher", "student")
    ]
    head = NodeType("head", "head", {"raykd-role": "head"}, 1, 1, 0, 0, instance="m7i.xlarge")
    return Hardware(
        "aws",
        (head, *gpu_nodes),
        prices={"head": (0.2, 0.1), "teacher": (50.0, 20.0), "student": (50.0, None)},
    )


@pytest.fixture
def around(models: Models, hardware: Hardware) -> Surroundings:
    """What jobs are judged against."""
    return Surroundings(models, hardware, read_accelerators())
