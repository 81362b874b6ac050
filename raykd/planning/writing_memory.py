"""What a teacher's shard holds to write text: keys and values of all that it has read and written.

`transformers` holds them for the rows at work, vLLM in a cache of a fixed size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from raykd.config.job import Job
from raykd.config.vllm import VllmConfig
from raykd.planning.accelerators import Accelerator
from raykd.planning.activations import FP32
from raykd.planning.memory import Memory
from raykd.planning.shape import ModelShape
from raykd.planning.written import MOST_ROWS, cache_token_bytes
from raykd.planning.zero_bytes import WIDTH_BYTES

CACHE: Final = "cache of keys and values"
VLLM_CPU_CACHE_BYTES: Final = 2**30
"""Where `teacher.vllm.kv_cache_gib` says nothing, on CPUs."""
FP64: Final = 8


def with_cache(job: Job, model: ModelShape, memory: Memory) -> Memory:
    """A shard's memory, with what it holds to write.

    Args:
        job: The job.
        model: The teacher.
        memory: Of a shard that scores.
    """
    teacher = job.teacher
    if teacher.engine == "vllm":
        said = (teacher.vllm or VllmConfig()).kv_cache_gib
        if teacher.device == "cpu" and said is None:
            kept = {**memory.kept, CACHE: VLLM_CPU_CACHE_BYTES}
            return replace(memory, device=memory.device + VLLM_CPU_CACHE_BYTES, kept=kept)
        return memory
    if job.generation is None:
        return memory
    cache, drawing = _held(job, model)
    passing = {**memory.passing, CACHE: cache}
    # The prompts are read when little is in the cache yet, but how long they are is not known.
    peak = cache + max(memory.passing["activations"], drawing)
    device = max(memory.device, sum(memory.kept.values()) + peak)
    return replace(memory, device=device, passing=passing)


def _held(job: Job, model: ModelShape) -> tuple[int, int]:
    """Bytes of the cache at most, and of drawing the next tokens of all rows."""
    assert job.generation is not None
    teacher, sampling = job.teacher, job.generation.sampling
    width, shards = WIDTH_BYTES[teacher.dtype], teacher.tensor_parallel
    # A single row may be longer than a batch should be.
    tokens = max(teacher.micro_batch_tokens, sampling.max_new_tokens + 1)
    heads = -(-model.num_kv_heads // shards)
    # One layer's keys or values are copied as they grow; both are repeated for all heads.
    layer = width * tokens * model.head_size * (heads + 2 * -(-model.num_heads // shards))
    rows = min(MOST_ROWS, max(1, tokens // (sampling.max_new_tokens + 1)))
    each = width + 2 * FP32 + (0 if sampling.temperature == 0 else 3 * FP64)
    if sampling.top_p < 1 or sampling.top_k is not None:
        each += 5 * FP64
    return tokens * cache_token_bytes(model, width, shards) + layer, rows * each * model.vocab_size


def on_gpu(job: Job, memory: Memory, gpu: Accelerator | None) -> Memory:
    """A vLLM shard on its GPU: weights, activations and cache fill the share that it is given.

    Args:
        job: The job.
        memory: Of the shard.
        gpu: Where it lies; None where unknown.
    """
    teacher = job.teacher
    said = teacher.vllm or VllmConfig()
    if teacher.engine != "vllm" or said.kv_cache_gib is not None or gpu is None:
        return memory
    share = int(said.gpu_memory_utilization * gpu.memory_bytes)
    taken = sum(memory.kept.values()) + memory.passing["activations"]
    cache = max(0, share - taken)
    # vLLM does not count the logits of scoring.
    device = max(memory.device, taken + cache + memory.passing["head chunk"])
    return replace(memory, device=device, kept={**memory.kept, CACHE: cache})


def too_little_for_vllm(job: Job, memory: Memory, gpu: Accelerator | None) -> str | None:
    """Why vLLM would not start on a GPU; None where it would.

    Args:
        job: The job.
        memory: Of the shard on that GPU.
        gpu: Where it lies.
    """
    if job.teacher.engine != "vllm" or gpu is None or memory.kept.get(CACHE) != 0:
        return None
    said = job.teacher.vllm or VllmConfig()
    return (
        f"teacher.vllm.gpu_memory_utilization: {said.gpu_memory_utilization:g} of {gpu.name}'s "
        "memory is less than weights and activations take, and leaves no cache of keys and "
        "values; raise it, or teacher.tensor_parallel"
    )
