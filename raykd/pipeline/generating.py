"""Text that the teacher writes: asked for where it is not kept yet, chosen, laid down as a corpus.

The driver only waits: prompts, completions and filters are in tasks on the cluster.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.errors import GenerationError
from raykd.evaluation.report_data import Generated
from raykd.generation.provenance import columns_of
from raykd.pipeline import cluster
from raykd.pipeline.choosing import choose, read_summary
from raykd.pipeline.models import Models
from raykd.pipeline.rewarding import gpus_to_choose
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.teacher import Teacher
from raykd.pipeline.writing import Found, count_lacking, write
from raykd.telemetry.progress import Progress

LOOK_S: Final = 2.0


def as_learned(job: Job, run: RunDirectory) -> Job:
    """The job whose corpus is what was generated and kept; other jobs as they are."""
    if job.generation is None:
        return job
    columns = columns_of(pq.read_schema(run.learned).names)
    corpus = CorpusConfig(source=str(run.learned), format="parquet", columns=columns)
    return job.model_copy(update={"data": job.data.model_copy(update={"corpus": corpus})})


def generate(
    job: Job,
    run: RunDirectory,
    models: Models,
    progress: Progress,
    start: Callable[[], Teacher],
) -> Teacher | None:
    """Have text written and chosen, before rows are made of it; nothing without the section.

    Args:
        job: The run's.
        run: Its directory.
        models: Found.
        progress: Shows it to a person.
        start: Starts the teacher, if it has to be asked.

    Returns:
        The teacher, where it was started.

    Raises:
        GenerationError: The teacher could not write, or nothing is left to learn from.
        RaykdError: As the tasks and the teacher say.
    """
    if job.generation is None:
        return None
    near = job.stream.labels
    teacher: Teacher | None = None
    with progress.stage("prompts"):
        found = cluster.run_remote(count_lacking, job, run, models, cpus=0, labels=near)
    try:
        if found.lacking:
            teacher = _asked(job, models, progress, found, start)
            client = teacher.client if teacher else None
            with (
                progress.stage("generate", total=found.of, unit="completion"),
                _counted(run.generating, progress),
            ):
                cluster.run_remote(write, job, run, models, client, found, cpus=0, labels=near)
        with progress.stage("choose"):
            told = cluster.run_remote(
                choose, job, run, models, cpus=0, gpus=gpus_to_choose(job), labels=near
            )
    except BaseException:
        if teacher is not None:
            teacher.stop()
        raise
    progress.note(sentence(told))
    return teacher


def _asked(
    job: Job, models: Models, progress: Progress, found: Found, start: Callable[[], Teacher]
) -> Teacher | None:
    """The teacher, once it answers; None where an endpoint is asked instead."""
    if job.teacher.endpoint is not None:
        return None
    if job.soft_targets.store_mode == "only":
        raise GenerationError(
            f"soft_targets.store_mode: only starts no teacher, but {found.lacking} of {found.of} "
            "completions are not kept yet; run it once with `store_mode: use`"
        )
    teacher = start()
    try:
        with progress.stage("teacher"):
            teacher.wait(job, models)
    except BaseException:
        teacher.stop()
        raise
    return teacher


@contextmanager
def _counted(file: Path, progress: Progress) -> Iterator[None]:
    """While the block runs, show how far the file says that it is."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            try:
                done, total = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            progress.count(done, total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sentence(told: dict[str, Any]) -> str:
    """What became of the completions, in words."""
    dropped = ", ".join(f"{name} {number}" for name, number in told["dropped"].items())
    paid = told.get("paid")
    return (
        f"generated: {told['completions']} completions of {told['prompts']} prompts, "
        f"{told['kept']} to learn from"
        + (f"; dropped: {dropped}" if dropped else "")
        + (f"; cost {paid['cost_usd']:.4f} USD" if paid and paid["cost_usd"] else "")
    )


def told_of(job: Job, run: RunDirectory) -> Generated | None:
    """What a report tells of it; None where nothing was generated."""
    if job.generation is None:
        return None
    told = read_summary(run)
    assert told is not None, "a run of generated text has chosen some before it learns"
    return Generated(**{name: told[name] for name in Generated.model_fields if name in told})
