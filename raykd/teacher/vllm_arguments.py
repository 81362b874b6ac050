"""What vLLM is started with: pure functions of what a replica knows, tested without vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from raykd.config.teacher import TeacherConfig
from raykd.config.vllm import VllmConfig
from raykd.teacher.engine import EngineSpec

GIB: Final = 2**30
CPU_CACHE_GIB: Final = 1.0
MOST_SEQUENCES: Final = 256
"""Texts that are at work at once, where that many tokens fit in a step."""


@dataclass(frozen=True)
class VllmOptions:
    """What decides vLLM's shape, beside what every engine is told."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.8
    kv_cache_gib: float | None = None
    full_vocabulary: bool = False

    @classmethod
    def of(cls, teacher: TeacherConfig) -> VllmOptions:
        """As the job's `teacher` says."""
        own = teacher.vllm or VllmConfig()
        return cls(
            teacher.tensor_parallel,
            teacher.pipeline_parallel,
            own.max_model_len,
            own.gpu_memory_utilization,
            own.kv_cache_gib,
            own.full_vocabulary,
        )

    @property
    def executor(self) -> str:
        """Who starts vLLM's processes: itself on one node, Ray over nodes, nobody for one."""
        if self.pipeline_parallel > 1:
            return "ray"
        return "mp" if self.tensor_parallel > 1 else "uni"


def environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that must be set before vLLM is imported.

    The engine's core runs in the shard's own process: another one would outlive a shard that is
    killed, and keep its GPU. No usage statistics leave the cluster.
    """
    variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    if not spec.use_gpu:
        # Several shards on one node would all bind to the same first cores.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["OMP_NUM_THREADS"] = str(spec.threads)
    return variables


def engine_arguments(spec: EngineSpec, options: VllmOptions) -> dict[str, Any]:
    """Arguments of `vllm.LLM`.

    Args:
        spec: What every engine is told.
        options: vLLM's own.
    """
    arguments: dict[str, Any] = {
        "model": spec.source.path,
        "revision": spec.source.revision,
        "tokenizer_revision": spec.source.revision,
        "trust_remote_code": spec.source.trust_remote_code,
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[spec.dtype],
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        "distributed_executor_backend": options.executor,
        # As many as a codec asks for; the default cap is 20.
        "max_logprobs": -1,
        # The model's own, before temperature and filters.
        "logprobs_mode": "raw_logprobs",
        # A prefix that is not computed has no log probabilities.
        "enable_prefix_caching": False,
        # Logits exist for at most so many tokens at once: long prompts are taken in pieces.
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": spec.micro_batch_tokens,
        "max_num_seqs": min(MOST_SEQUENCES, spec.micro_batch_tokens),
    }
    if options.max_model_len is not None:
        arguments["max_model_len"] = options.max_model_len
    if spec.use_gpu:
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
    else:
        # Compiling for a CPU takes minutes and a C++ compiler.
        arguments["enforce_eager"] = True
    gib = options.kv_cache_gib or (None if spec.use_gpu else CPU_CACHE_GIB)
    if gib is not None:
        arguments["kv_cache_memory_bytes"] = int(gib * GIB)
    return arguments
