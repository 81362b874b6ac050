"""What can be done with a run afterwards: export it again, measure it on other text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.errors import JobError, StorageError
from raykd.evaluation.drift import warnings_of
from raykd.evaluation.gates import Gate, results_of
from raykd.evaluation.gates_of_tasks import require_measurable
from raykd.evaluation.harness import Harness, require_tasks
from raykd.evaluation.report import read_report, write_report
from raykd.evaluation.report_data import ModelFacts, Report
from raykd.models.load import ModelSource
from raykd.pipeline import (
    by_slice,
    cluster,
    evaluating,
    evaluating_labels,
    resources,
    stages,
    waiting,
)
from raykd.pipeline.distill import now
from raykd.pipeline.models import Models, find_models
from raykd.pipeline.other_text import corpus_like_the_jobs
from raykd.pipeline.outcome import evaluation_report, write_figures
from raykd.pipeline.plan import replicas
from raykd.pipeline.probe import decided
from raykd.pipeline.run_dir import RunDirectory, load_run_job
from raykd.pipeline.targets import heldout_spec
from raykd.pipeline.teacher import Parts, start_teacher
from raykd.teacher.service import Scorer
from raykd.telemetry.progress import Progress


def export_run(root: Path, output: Path | None) -> tuple[Path, int]:
    """Export the newest checkpoint of a run.

    Args:
        root: The run directory.
        output: Where to; None is `student` in it.

    Returns:
        The directory, and the steps the checkpoint has done.

    Raises:
        StorageError: No run, no checkpoint, or `output` holds something else.
    """
    job, run = _open(root)
    directory = (output or run.student).expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise StorageError(f"{directory} is a file; choose another --output")
    if directory.is_dir() and any(directory.iterdir()) and directory != run.student:
        raise StorageError(f"{directory} is not empty; choose another --output")
    directory.parent.mkdir(parents=True, exist_ok=True)
    models = cluster.run_remote(find_models, job, run, labels=job.stream.labels)
    initial = _initial(run, models)
    steps = cluster.run_remote(
        stages.export_student, job, run, models, initial, directory, labels=job.stream.labels
    )
    if (run.root / "report.json").is_file():
        write_figures(directory, read_report(run.root))
    return directory, steps


@dataclass(frozen=True)
class Evaluation:
    """What `raykd eval` is asked for.

    Attributes:
        data: A file or directory.
        form: Its format, as in the job's corpora.
        name: Of the measurement.
        columns: `KEY=NAME`, where its columns are named otherwise than in the job's corpus.
        slices: Columns to divide the rows by.
        max_rows: Rows that the models run on; None is `evaluation.max_rows`.
        batch: The larger of the two batch sizes that models are timed at; 0 times none.
        texts: Whether the report shows excerpts.
        gates: Limits that the student has to keep.
        harness: Tasks of `lm-eval`; None is none.
    """

    data: Path
    form: str
    name: str
    columns: Sequence[str] = ()
    slices: Sequence[str] = ()
    max_rows: int | None = None
    batch: int = 8
    texts: bool = True
    gates: Sequence[Gate] = ()
    harness: Harness | None = None


def evaluate_run(root: Path, asked: Evaluation, progress: Progress) -> tuple[Path, Report]:
    """Measure teacher, untrained student and student on other text.

    Args:
        root: The run directory, with an exported student.
        asked: On what, and what is wanted of it.
        progress: Shows it to a person.

    Returns:
        The measurement's directory and its report; whether gates hold stands in it.

    Raises:
        StorageError: No run, or no exported student.
        JobError: A limit for a figure that the job's models have not.
        CorpusError: The text cannot be read.
    """
    started = now()
    job, run = _open(root)
    if not (run.student / "config.json").is_file():
        raise StorageError(f"{run.student}: no exported student; `raykd export {root}` makes one")
    require_measurable(asked.gates, job.classifier.task if job.classifier else None)
    corpus = corpus_like_the_jobs(job, asked.data, asked.form, asked.columns)
    directory = run.root / "evaluations" / _plain(asked.name)
    if evaluating.can_score(job):
        resources.require(job, {"scoring": [replicas(job)]})
    with waiting.watched(job, progress.note):
        stats, teacher, found = _evaluate(job, run, corpus, directory, asked, progress)
    report = _told(job, asked, stats, teacher, found, progress, started)
    write_report(directory, report)
    return directory, report


def _evaluate(
    job: Job,
    run: RunDirectory,
    corpus: CorpusConfig,
    directory: Path,
    asked: Evaluation,
    progress: Progress,
) -> tuple[dict[str, Any], ModelFacts | None, evaluating.Found]:
    """Prepare the text, have the teacher score it, measure the students on it."""
    near, place = job.stream.labels, directory / "rows"
    with progress.stage("prepare"):
        if asked.harness:
            cluster.run_remote(require_tasks, asked.harness, labels=job.student.labels)
        models = cluster.run_remote(find_models, job, run, labels=near)
        stats, chosen = _prepared(job, models, corpus, place, asked)
    progress.note(f"{asked.name}: {stats['sentence']}; {len(chosen):,} rows measured")
    scored = directory / "scored.arrow"
    teacher = _score(job, models, place, scored, chosen, progress)
    at = evaluating.Looked(run.data, place, scored, chosen, asked.batch, asked.texts, asked.harness)
    of_labels = models.encoder is not None
    inspect = evaluating_labels.inspect_labels if of_labels else evaluating.inspect
    with progress.stage("evaluate"):
        found = cluster.run_remote(
            inspect,
            job,
            models,
            _initial(run, models),
            run.student,
            at,
            cpus=job.student.cpus_per_worker,
            gpus=1.0 if job.student.device == "gpu" else 0.0,
            labels=job.student.labels,
        )
    return stats, teacher, found


def _prepared(
    job: Job, models: Models, corpus: CorpusConfig, place: Path, asked: Evaluation
) -> tuple[dict[str, Any], list[int]]:
    """The sample's statistics, and which of its rows are measured."""
    if asked.harness and models.encoder is not None:
        raise JobError("--lm-eval: its tasks are for models of text, not `method: classifier`")
    most = asked.max_rows or job.evaluation.max_rows
    of_sample: tuple[dict[str, Any], list[int]] = cluster.run_remote(
        evaluating.prepare_chosen,
        job,
        models,
        corpus,
        place,
        most,
        asked.slices,
        labels=job.stream.labels,
    )
    return of_sample


def _score(
    job: Job,
    models: Models,
    rows: Path,
    target: Path,
    chosen: list[int],
    progress: Progress,
) -> ModelFacts | None:
    """Have the teacher score the chosen rows; what it says of itself, None where it cannot."""
    near = job.stream.labels
    target.unlink(missing_ok=True)
    if not evaluating.can_score(job):
        cluster.run_remote(stages.score_set, None, rows, target, None, chosen, labels=near)
        return None
    teacher = start_teacher(job, models, Parts())
    try:
        with progress.stage("teacher"):
            teacher.wait(job, models)
        with progress.stage("score"):
            spec, ask = heldout_spec(job, models), partial(Scorer, teacher.client)
            score = by_slice.scoring(job, models, None, spec, rows, ask)
            cluster.run_remote(
                stages.score_set, score, rows, target, None, chosen, cpus=0, labels=near
            )
    finally:
        teacher.stop()
    return teacher.facts


def _told(
    job: Job,
    asked: Evaluation,
    stats: dict[str, Any],
    teacher: ModelFacts | None,
    found: evaluating.Found,
    progress: Progress,
    started: str,
) -> Report:
    """The report, with what the gates say."""
    measured = stages.Measured(found.models, {asked.name: found.scores})
    gates = results_of(asked.gates, found.scores, found.inspection)
    inspection = found.inspection.model_copy(update={"gates": gates})
    told = evaluation_report(
        job, teacher, {asked.name: stats}, measured, progress.stages, started, now()
    )
    drift = inspection.drift
    warnings = warnings_of(drift) if drift else []
    for line in warnings:
        progress.note(line)
    return told.model_copy(
        update={
            "inspections": {asked.name: inspection},
            "notes": [*warnings, *inspection.notes],
        }
    )


def _plain(name: str) -> str:
    """A measurement's name is a directory's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise JobError(f"--name {name!r}: letters, digits, '.', '_' and '-' only")
    return name


def _open(root: Path) -> tuple[Job, RunDirectory]:
    run = RunDirectory(root.expanduser().resolve())
    job = load_run_job(run.root)
    return (decided(job, run) if run.probe.is_file() else job), run


def _initial(run: RunDirectory, models: Models) -> ModelSource:
    return models.pretrained or ModelSource(str(run.initial_student))
