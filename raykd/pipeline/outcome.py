"""From what a run measured to its report and the figures on the model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from raykd import __version__
from raykd.config.job import Job
from raykd.config.load import dump_job
from raykd.evaluation import report_tasks
from raykd.evaluation.report_data import (
    TEACHER,
    UNTRAINED,
    HeldoutPoint,
    ModelFacts,
    ModelScores,
    Report,
    heldout_curve,
    training_curve,
    training_totals,
)
from raykd.pipeline import cluster, generating, nodes
from raykd.pipeline.at_hand import in_words
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.stages import Measured
from raykd.student.export import MEASURED
from raykd.telemetry.metrics_file import read_metrics
from raykd.telemetry.progress import StageTime
from raykd.telemetry.replicas import fewer, mean_running, read_samples


def run_report(
    job: Job,
    run: RunDirectory,
    teacher: ModelFacts | None,
    data: dict[str, Any],
    measured: Measured,
    stages: Sequence[StageTime],
    started: str,
    finished: str,
) -> Report:
    """Put together everything that a run leaves."""
    metrics = read_metrics(run.metrics)
    samples = read_samples(run.teacher_log)
    replicas = mean_running(samples) or 0.0
    told = evaluation_report(job, teacher, data, measured, stages, started, finished)
    return told.model_copy(
        update={
            "training": training_totals(metrics, replicas),
            "curve": training_curve(metrics, replicas),
            "teacher": fewer(samples),
            "heldout_curve": [*_before_training(measured), *heldout_curve(metrics)],
            "generated": generating.told_of(job, run),
            "notes": _notes(run),
        }
    )


def _before_training(measured: Measured) -> list[HeldoutPoint]:
    """The untrained student on the same held-out rows, where the curve begins."""
    scores = measured.sets["heldout"].models[UNTRAINED]
    if scores.kl_to_teacher is None or scores.top1_agreement is None or scores.perplexity is None:
        return []
    return [
        HeldoutPoint(
            step=0,
            kl=scores.kl_to_teacher,
            top1_agreement=scores.top1_agreement,
            perplexity=scores.perplexity,
        )
    ]


def evaluation_report(
    job: Job,
    teacher: ModelFacts | None,
    data: dict[str, Any],
    measured: Measured,
    stages: Sequence[StageTime],
    started: str,
    finished: str,
) -> Report:
    """What the models scored, without a training; `teacher` is None where none was asked."""
    return Report(
        raykd_version=__version__,
        name=job.name,
        job=yaml.safe_load(dump_job(job)),
        started=started,
        finished=finished,
        hardware=_hardware(job),
        data=data,
        models={**({TEACHER: teacher} if teacher else {}), **measured.models},
        evaluation=measured.sets,
        stages=list(stages),
    )


def _hardware(job: Job) -> dict[str, Any]:
    have = cluster.totals()
    student = job.student
    return {
        "nodes": len(nodes.alive()),
        "cpus": have.get("CPU", 0),
        "gpus": have.get("GPU", 0),
        "teacher": _teacher(job),
        "student": f"{student.num_workers} x {student.device}, ZeRO {student.zero_stage}",
    }


def _teacher(job: Job) -> str:
    if job.teacher.endpoint is not None:
        return in_words(job)
    return f"{_replicas(job)} x {job.teacher.num_shards} {job.teacher.device}"


def _replicas(job: Job) -> str:
    fewest, most = job.teacher.min_replicas, job.teacher.max_replicas
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _notes(run: RunDirectory) -> list[str]:
    file = run.logs / "notes.txt"
    return file.read_text().splitlines() if file.is_file() else []


def write_figures(student: Path, report: Report) -> None:
    """Put the measured figures on the export's model card."""
    card = student / "README.md"
    card.write_text(card.read_text().replace(MEASURED, figures(report)))


def figures(report: Report) -> str:
    """The evaluation as a Markdown table."""
    names = report_tasks.columns(report)
    heads = [report_tasks.heading(name) for name in names]
    lines = [
        f"| held-out set | model | {' | '.join(heads)} | KL to teacher | top-1 agreement |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for name, scores in report.evaluation.items():
        for role, one in scores.models.items():
            kl = "" if one.kl_to_teacher is None else f"{one.kl_to_teacher:.4f}"
            top1 = "" if one.top1_agreement is None else f"{one.top1_agreement:.1%}"
            told = [_figure(key, one) for key in names]
            lines.append(f"| {name} | {role} | {' | '.join(told)} | {kl} | {top1} |")
    lines.append("")
    if names != [report_tasks.PERPLEXITY]:
        lines.append(report_tasks.of_divergence(report))
        return "\n".join(lines)
    lines.append(
        "KL in nats a token, over the teacher's top "
        f"{report.job['evaluation']['top_k']} ids and one bucket for all others."
    )
    return "\n".join(lines)


def _figure(name: str, scores: ModelScores) -> str:
    if name == report_tasks.PERPLEXITY:
        return "" if scores.perplexity is None else f"{scores.perplexity:,.2f}"
    return report_tasks.text_of(name, scores.metrics, None)
