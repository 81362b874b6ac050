"""What a job with a teacher on vLLM may say, and what it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykd.config.method import NEEDS, lacking
from raykd.config.vllm import VllmConfig

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.config.teacher import TeacherConfig


def check_teacher(teacher: TeacherConfig) -> None:
    """Refuse keys of vLLM for another engine, and keys that vLLM would not look at.

    Raises:
        ValueError: Names the key.
    """
    if teacher.engine != "vllm":
        for key, given in (
            ("vllm", teacher.vllm is not None),
            ("pipeline_parallel", teacher.pipeline_parallel > 1),
        ):
            if given:
                raise ValueError(
                    f"{key} is for `engine: vllm`; with engine {teacher.engine} it would change "
                    "nothing: remove it, or change the engine"
                )
        return
    options = teacher.vllm or VllmConfig()
    if teacher.head_chunk_tokens != type(teacher).model_fields["head_chunk_tokens"].default:
        raise ValueError(
            "head_chunk_tokens: vLLM makes the logits of as many tokens as it takes at once; lower "
            "`micro_batch_tokens` instead"
        )
    if teacher.device == "gpu":
        return
    if teacher.pipeline_parallel > 1:
        raise ValueError(
            "pipeline_parallel puts stages of the model on GPUs of several nodes; with `device: "
            "cpu` raise `tensor_parallel` instead"
        )
    if options.gpu_memory_utilization != VllmConfig().gpu_memory_utilization:
        raise ValueError(
            "vllm.gpu_memory_utilization: with `device: cpu` it would change nothing; set "
            "`vllm.kv_cache_gib`"
        )


def check_job(job: Job) -> None:
    """Refuse what vLLM cannot give.

    Raises:
        ValueError: Names the field, and what gives it.
    """
    if job.teacher.engine != "vllm":
        return
    if problem := lacking("vllm", NEEDS[job.method], f"method: {job.method}"):
        raise ValueError(problem)
    options = job.teacher.vllm or VllmConfig()
    rows = job.data.sequence_length_tokens
    if options.max_model_len is not None and rows >= options.max_model_len:
        raise ValueError(
            f"teacher.vllm.max_model_len: {options.max_model_len} must exceed "
            f"data.sequence_length_tokens ({rows}): vLLM always writes one token more"
        )
    if job.learns_from_logits:
        _check_codec(job, options)


def _check_codec(job: Job, options: VllmConfig) -> None:
    targets = job.soft_targets
    if targets.codec in ("hidden", "auto"):
        raise ValueError(
            f"soft_targets.codec: {targets.codec} needs the teacher's hidden states, which "
            "`teacher.engine: vllm` does not give; choose top_k, or `engine: transformers`"
        )
    if options.full_vocabulary:
        return
    instead = (
        "set `teacher.vllm.full_vocabulary: true` for a small vocabulary, or choose `engine: "
        "transformers`"
    )
    if targets.codec != "top_k":
        raise ValueError(
            f"soft_targets.codec: {targets.codec} needs every log probability, and `teacher."
            f"engine: vllm` hands over the likeliest only: choose top_k, {instead}"
        )
    if targets.tail and job.temperatures != (1.0,):
        others = ", ".join(f"{t:g}" for t in job.temperatures[1:])
        raise ValueError(
            f"loss.temperature, soft_targets.temperatures: the tail at {others} is a sum over the "
            "whole vocabulary, and `teacher.engine: vllm` hands over the likeliest only: keep to "
            f"temperature 1, {instead}"
        )
