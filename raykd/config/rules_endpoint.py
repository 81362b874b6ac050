"""What a job with a teacher behind an endpoint may say, and what it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raykd.config import rules_top_logprobs
from raykd.config.method import NEEDS, lacking
from raykd.config.student import FromPretrained

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.config.teacher import TeacherConfig

TOLD: Final = (
    "; or set `teacher.endpoint.top_logprobs: 20`, where the endpoint tells log probabilities of "
    "what it writes and the student has its tokenizer"
)

OF_OWN_WEIGHTS: Final = (
    "gguf_file",
    "revision",
    "trust_remote_code",
    "device",
    "dtype",
    "tensor_parallel",
    "replicas",
    "cpus_per_shard",
    "threads_per_shard",
    "micro_batch_tokens",
    "head_chunk_tokens",
    "labels",
    "start_timeout_s",
)
"""Keys of `teacher` for a model that raykd runs itself."""


def check_teacher(teacher: TeacherConfig) -> None:
    """Refuse a teacher that is half an endpoint.

    Raises:
        ValueError: Engine and `endpoint` do not go together, or a key would change nothing.
    """
    if teacher.engine != "openai":
        if teacher.endpoint is not None:
            raise ValueError(
                f"endpoint is for `engine: openai`; engine {teacher.engine} runs the model itself: "
                "remove `endpoint`, or change the engine"
            )
        return
    if teacher.endpoint is None:
        raise ValueError("engine: openai asks an endpoint: say where, `endpoint: {base_url: ...}`")
    fields = type(teacher).model_fields
    idle = [
        name
        for name in OF_OWN_WEIGHTS
        if getattr(teacher, name) != fields[name].get_default(call_default_factory=True)
    ]
    if idle:
        raise ValueError(
            f"{', '.join(idle)}: for a model that raykd runs itself; with `engine: openai` the "
            "endpoint decides it: remove"
        )


def check_job(job: Job) -> None:
    """Refuse what needs the teacher's weights or distributions, where there are none.

    Raises:
        ValueError: Names the field.
    """
    endpoint = job.teacher.endpoint
    if endpoint is None:
        return
    if endpoint.top_logprobs is not None:
        rules_top_logprobs.check(job)
    elif problem := lacking("openai", NEEDS[job.method], f"method: {job.method}"):
        hint = TOLD if job.method == "logits" and job.generation is not None else ""
        raise ValueError(problem + hint)
    init = job.student.init
    if not isinstance(init, FromPretrained):
        raise ValueError(
            f"student.init.start: {init.start} takes weights or the tokenizer from the teacher, "
            "and an endpoint gives neither; begin with `start: pretrained`"
        )
    if endpoint.top_logprobs is None:
        _check_text_only(job)
    asked = job.generation
    if asked and asked.keep_best and not asked.scorer and not endpoint.tells_logprobs:
        raise ValueError(
            "generation.keep_best compares mean log probabilities: set "
            "`teacher.endpoint.logprobs: true`, where the endpoint gives them, or name a "
            "`generation.scorer`"
        )


def _check_text_only(job: Job) -> None:
    if job.soft_targets.store_mode in ("fill", "only"):
        raise ValueError(
            f"soft_targets.store_mode: {job.soft_targets.store_mode} keeps soft targets, and an "
            "endpoint gives text only; remove it: what is generated is kept anyway"
        )
    if job.evaluation.every_steps is not None:
        raise ValueError(
            "evaluation.every_steps measures the distance to the teacher's distributions, and an "
            "endpoint gives text only; remove it: perplexity is measured before and after"
        )
