"""What to change where a job does not fit: each change is tried before it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from raykd.config.job import Job
from raykd.planning.fitting import Surroundings, fit
from raykd.planning.plan_data import Remedy
from raykd.planning.split import changed, rank_counts

Changes = dict[str, Any]
MOST_TOLD: Final = 4


def remedies(job: Job, around: Surroundings, problems: Mapping[str, list[str]]) -> list[Remedy]:
    """For each problem the smallest changes with which it is gone and no other begins.

    Args:
        job: The job that does not fit.
        around: Models and hardware.
        problems: What is wrong, by aspect.
    """
    found = []
    first: Changes = {}
    for aspect in problems:
        working = _working(job, around, aspect, set(problems))
        found += [Remedy(aspect, _settings(changes)) for changes in working]
        if working:
            first |= working[0]
    if len(problems) > 1 and first and _left(job, around, first) == set():
        found.append(Remedy("all together", _settings(first)))
    return found


def _working(job: Job, around: Surroundings, aspect: str, before: set[str]) -> list[Changes]:
    """One working change of each kind; several at once only where none works alone."""
    found: list[Changes] = []
    for kind in (*_SINGLE[aspect], *_TOGETHER[aspect]):
        if found and kind in _TOGETHER[aspect]:
            break
        for changes in kind(job):
            left = _left(job, around, changes)
            if left is not None and aspect not in left and left <= before:
                found.append(changes)
                break
    return found[:MOST_TOLD]


def _left(job: Job, around: Surroundings, changes: Changes) -> set[str] | None:
    """What is still wrong then; None where the job would not be valid."""
    try:
        return set(fit(changed(job, changes), around).problems)
    except ValueError:
        return None


def _settings(changes: Changes) -> tuple[str, ...]:
    return tuple(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in changes.items()
    )


def _halves(start: int, least: int) -> Iterator[int]:
    while start > least:
        start = max(least, start // 2)
        yield start


def _teacher_micro_batch(job: Job) -> Iterator[Changes]:
    for tokens in _halves(job.teacher.micro_batch_tokens, job.data.sequence_length_tokens):
        yield {"teacher.micro_batch_tokens": tokens}


def _head_chunk(job: Job) -> Iterator[Changes]:
    for tokens in _halves(job.teacher.head_chunk_tokens, 64):
        yield {"teacher.head_chunk_tokens": tokens}


def _tensor_parallel(job: Job) -> Iterator[Changes]:
    for factor in (2, 4, 8):
        yield {"teacher.tensor_parallel": factor * job.teacher.tensor_parallel}


def _smaller_teacher(job: Job) -> Iterator[Changes]:
    """More shards, one row at a time, few logits."""
    for split in _tensor_parallel(job):
        yield {
            **split,
            "teacher.micro_batch_tokens": job.data.sequence_length_tokens,
            "teacher.head_chunk_tokens": min(256, job.teacher.head_chunk_tokens),
        }


def _checkpointing(job: Job) -> Iterator[Changes]:
    if not job.student.activation_checkpointing:
        yield {"student.activation_checkpointing": True}


def _micro_batch(job: Job) -> Iterator[Changes]:
    for rows in _halves(job.train.micro_batch, 1):
        yield {"train.micro_batch": rows}


def _zero_stage(job: Job) -> Iterator[Changes]:
    for stage in range(job.student.zero_stage + 1, 4):
        yield {"student.zero_stage": stage}


def _offload(job: Job) -> Iterator[Changes]:
    if job.student.offload == "none" and job.student.zero_stage > 0:
        yield {"student.offload": "optimizer"}


def _smaller_student(job: Job) -> Iterator[Changes]:
    """One saving after the other, on top of those before."""
    changes: Changes = {"student.activation_checkpointing": True}
    for key, value in (
        ("train.micro_batch", 1),
        ("student.zero_stage", 3),
        ("student.offload", "optimizer"),
        ("student.offload", "all"),
    ):
        changes = {**changes, key: value}
        yield changes


def _fewer_replicas(job: Job) -> Iterator[Changes]:
    if not isinstance(job.teacher.replicas, int):
        return
    count = job.teacher.replicas
    while count > 1:
        # One by one among few; hundreds are gone through in larger steps.
        count -= 1 + count // 32
        yield {"teacher.replicas": count}


def _fewer_ranks(job: Job) -> Iterator[Changes]:
    for count in reversed(rank_counts(job, job.student.num_workers - 1)):
        yield {"student.num_workers": count}


def _fewer_of_both(job: Job) -> Iterator[Changes]:
    for fewer in _fewer_ranks(job):
        yield {"teacher.replicas": 1, **fewer}
    yield {"teacher.replicas": 1, "student.num_workers": 1, "stream.num_loaders": 1}


def _fewer_shards(job: Job) -> Iterator[Changes]:
    for shards in _halves(job.teacher.tensor_parallel, 1):
        yield {"teacher.tensor_parallel": shards}


def _fewer_cpus(key: str) -> Callable[[Job], Iterator[Changes]]:
    section, _, name = key.partition(".")

    def kind(job: Job) -> Iterator[Changes]:
        cpus = getattr(getattr(job, section), name)
        for part in (2, 4, 8):
            yield {key: round(cpus / part, 4)}

    return kind


_SINGLE: Final[Mapping[str, tuple[Callable[[Job], Iterator[Changes]], ...]]] = {
    "teacher memory": (_teacher_micro_batch, _head_chunk, _tensor_parallel),
    "student memory": (_checkpointing, _micro_batch, _zero_stage, _offload),
    "node memory": (_fewer_replicas, _fewer_ranks, _micro_batch, _checkpointing),
    "placement": (
        _fewer_replicas,
        _fewer_ranks,
        _fewer_cpus("teacher.cpus_per_shard"),
        _fewer_cpus("student.cpus_per_worker"),
        _fewer_cpus("stream.cpus_per_loader"),
        _fewer_shards,
    ),
}
_TOGETHER: Final[Mapping[str, tuple[Callable[[Job], Iterator[Changes]], ...]]] = {
    "teacher memory": (_smaller_teacher,),
    "student memory": (_smaller_student,),
    "node memory": (_fewer_of_both, _smaller_student),
    "placement": (_fewer_of_both,),
}
