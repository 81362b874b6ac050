"""The story of a run, from one job file to a distilled student and a report."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.errors import RaykdError, RunError, StorageError
from raykd.evaluation.report import write_report
from raykd.evaluation.report_data import ModelFacts, Report
from raykd.models.load import ModelSource
from raykd.pipeline import (
    cluster,
    generating,
    kept,
    lease,
    plan,
    preflight,
    probe,
    resources,
    stages,
    waiting,
)
from raykd.pipeline.anchor import anchored
from raykd.pipeline.instruments import instruments_of
from raykd.pipeline.meters import Meters
from raykd.pipeline.models import Models, find_models, make_student
from raykd.pipeline.outcome import run_report, write_figures
from raykd.pipeline.run_dir import RunDirectory, claim, require_writable
from raykd.pipeline.story import Story
from raykd.pipeline.teacher import Parts, Teacher, absent_teacher, remove_left_over, start_teacher
from raykd.telemetry.progress import Progress


def distill(job: Job, progress: Progress, *, resume: bool, parts: Parts = Parts()) -> Report:
    """Run a job on the connected cluster.

    Args:
        job: What to do.
        progress: Shows it to a person.
        resume: Go on with the run that is there.
        parts: Stand-ins for teacher and student.

    Returns:
        The report, which also lies in the run directory.

    Raises:
        RaykdError: Something is wrong with the job, or the run could not go on.
        Interrupted: A person stopped it; a checkpoint was saved.
    """
    job = anchored(job, cluster.works_in_copy())
    root = RunDirectory.of(job).root
    require_writable(root)
    lost: list[StorageError] = []
    meters = Meters(instruments_of(job.name))
    with lease.held(root, lost.append):
        run = claim(job, resume)
        with meters.failures_counted(), waiting.watched(job, progress.note):
            return _distill(job, run, progress, parts, lost, meters)


def _distill(
    job: Job,
    run: RunDirectory,
    progress: Progress,
    parts: Parts,
    lost: list[StorageError],
    meters: Meters,
) -> Report:
    """The run, once its directory is this driver's; `lost` fills if it is taken away."""
    started = now()
    try:
        store_is_asked = kept.holds_anything(job) or job.soft_targets.store_mode == "only"
        may_be_kept = store_is_asked and job.teacher.is_asked
        if remove_left_over(job):
            progress.note("the teacher of a driver that was killed still ran: it was taken down")
        with progress.stage("check"):
            for advice in preflight.require(job, with_teacher=not may_be_kept):
                progress.note(advice)
        with progress.stage("models"):
            near = job.stream.labels
            models = cluster.run_remote(find_models, job, run, labels=near)
            initial = cluster.run_remote(make_student, job, run, models, labels=near)
        if job.soft_targets.codec == "auto" and run.probe.is_file():
            job = probe.decided(job, run)
        story = Story(job, run, models, initial, progress, parts, lost, meters)
        phases = plan.phases(job) if may_be_kept else {}
        start = partial(_started_teacher, job, models, parts, phases)
        asked = generating.generate(job, run, models, progress, start)
        if asked is not None:
            teacher = asked
        elif may_be_kept and story.all_is_kept():
            progress.note("all that is needed is kept: no teacher starts")
            teacher = absent_teacher(job, run, models)
        else:
            teacher = start()
        try:
            data, targets = story.prepare(teacher)
            story.decide(teacher)
            if not story.job.needs_teacher_for_training:
                teacher.stop()
            if story.job.soft_targets.store_mode == "fill":
                story.fill(teacher)
            story.train(teacher, targets)
        finally:
            teacher.stop()
        report = _conclude(
            story.job, run, models, initial, teacher.facts, data, targets, progress, started
        )
    except RaykdError:
        raise
    except Exception as error:
        log = run.logs / "error.txt"
        log.write_text("".join(traceback.format_exception(error)))
        raise RunError(f"{type(error).__name__}: {error} (traceback in {log})") from error
    return report


def _started_teacher(job: Job, models: Models, parts: Parts, phases: resources.Phases) -> Teacher:
    """Begin to start the teacher, once what it needs is sure to be there."""
    if phases:
        resources.require(job, phases)
    return start_teacher(job, models, parts)


def _conclude(
    job: Job,
    run: RunDirectory,
    models: Models,
    initial: ModelSource,
    teacher: ModelFacts | None,
    data: dict[str, Any],
    targets: dict[str, Path],
    progress: Progress,
    started: str,
) -> Report:
    """Export, measure, report."""
    cpus = job.student.cpus_per_worker
    gpus = 1.0 if job.student.device == "gpu" else 0.0
    with progress.stage("export"):
        cluster.run_remote(
            stages.export_student,
            job,
            run,
            models,
            initial,
            run.student,
            cpus=cpus,
            labels=job.student.labels,
        )
    with progress.stage("evaluate"):
        measured = cluster.run_remote(
            stages.measure,
            job,
            models,
            initial,
            run.student,
            targets,
            cpus=cpus,
            gpus=gpus,
            labels=job.student.labels,
        )
    report = run_report(job, run, teacher, data, measured, progress.stages, started, now())
    write_report(run.root, report)
    write_figures(run.student, report)
    return report


def now() -> str:
    """The time, for reports."""
    return datetime.now(UTC).isoformat(timespec="seconds")
