"""What can be done with a run afterwards: export it again, measure it on other text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.errors import JobError, StorageError
from raykd.evaluation.report import read_report, write_report
from raykd.evaluation.report_data import ModelFacts, Report
from raykd.models.load import ModelSource
from raykd.pipeline import cluster, resources, stages, waiting
from raykd.pipeline.distill import now
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
    models = cluster.run_remote(stages.find_models, job, run, labels=job.stream.labels)
    initial = _initial(run, models)
    steps = cluster.run_remote(
        stages.export_student, job, run, models, initial, directory, labels=job.stream.labels
    )
    if (run.root / "report.json").is_file():
        write_figures(directory, read_report(run.root))
    return directory, steps


def evaluate_run(
    root: Path, data: Path, form: str, name: str, progress: Progress
) -> tuple[Path, Report]:
    """Measure teacher, untrained student and student on other text.

    Args:
        root: The run directory, with an exported student.
        data: A file or directory; its columns are named as in the job's corpus.
        form: Its format, as in the job's corpora.
        name: Of the measurement.
        progress: Shows it to a person.

    Returns:
        The measurement's directory and its report.

    Raises:
        StorageError: No run, or no exported student.
        CorpusError: The text cannot be read.
    """
    started = now()
    job, run = _open(root)
    if not (run.student / "config.json").is_file():
        raise StorageError(f"{run.student}: no exported student; `raykd export {root}` makes one")
    corpus = _like_the_jobs(job, data, form)
    directory = run.root / "evaluations" / _plain(name)
    resources.require(job, {"scoring": [replicas(job)]})
    with waiting.watched(job, progress.note):
        stats, facts, measured = _evaluate(job, run, corpus, directory, name, progress)
    report = evaluation_report(job, facts, {name: stats}, measured, progress.stages, started, now())
    write_report(directory, report)
    return directory, report


def _evaluate(
    job: Job,
    run: RunDirectory,
    corpus: CorpusConfig,
    directory: Path,
    name: str,
    progress: Progress,
) -> tuple[dict[str, Any], ModelFacts, stages.Measured]:
    """Prepare the text, have the teacher score it, measure the students on it."""
    with progress.stage("prepare"):
        models = cluster.run_remote(stages.find_models, job, run, labels=job.stream.labels)
        stats = cluster.run_remote(
            stages.prepare_other,
            job,
            models,
            corpus,
            directory / "rows",
            job.evaluation.max_rows,
            labels=job.stream.labels,
        )
    progress.note(f"{name}: {stats['sentence']}")
    teacher = start_teacher(job, models, Parts())
    try:
        with progress.stage("teacher"):
            teacher.wait(job, models)
        with progress.stage("score"):
            spec = heldout_spec(job, models)
            target = directory / "scored.arrow"
            target.unlink(missing_ok=True)
            ask = Scorer(teacher.client, spec)
            rows, near = directory / "rows", job.stream.labels
            cluster.run_remote(stages.score_set, ask, rows, target, cpus=0, labels=near)
    finally:
        teacher.stop()
    with progress.stage("evaluate"):
        measured = cluster.run_remote(
            stages.measure,
            job,
            models,
            _initial(run, models),
            run.student,
            {name: target},
            cpus=job.student.cpus_per_worker,
            gpus=1.0 if job.student.device == "gpu" else 0.0,
            labels=job.student.labels,
        )
    return stats, teacher.facts, measured


def _like_the_jobs(job: Job, data: Path, form: str) -> CorpusConfig:
    """The other text, read as the job's corpus is."""
    corpus = job.data.corpus
    try:
        return CorpusConfig.model_validate(
            {
                **corpus.model_dump(include={"columns", "text_unit", "on_bad_record"}),
                "source": str(data.expanduser().absolute()),
                "format": form,
            }
        )
    except ValidationError as error:
        raise JobError(f"--format {form}: {error.errors()[0]['msg']}") from None


def _plain(name: str) -> str:
    """A measurement's name is a directory's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise JobError(f"--name {name!r}: letters, digits, '.', '_' and '-' only")
    return name


def _open(root: Path) -> tuple[Job, RunDirectory]:
    run = RunDirectory(root.expanduser().resolve())
    job = load_run_job(run.root)
    return (decided(job, run) if run.probe.is_file() else job), run


def _initial(run: RunDirectory, models: stages.Models) -> ModelSource:
    return models.pretrained or ModelSource(str(run.initial_student))
