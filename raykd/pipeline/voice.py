"""How `raykd run` says what it does: to a person, or as JSON lines to a log collector."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from raykd.config.job import Job
from raykd.evaluation.report import HTML_FILE, terminal_table
from raykd.evaluation.report_data import Report
from raykd.evaluation.report_headline import sentence
from raykd.telemetry.json_lines import JsonLines
from raykd.telemetry.json_log import JsonLog
from raykd.telemetry.progress import Progress


@contextmanager
def hushed(lines: JsonLines | None) -> Iterator[None]:
    """Drop what is logged until JSON lines begin: Ray starts with a form of its own."""
    if lines is not None:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def progress_of(job: Job, console: Console, lines: JsonLines | None) -> Iterator[Progress]:
    """Shows a run while the block runs.

    Args:
        job: The run's.
        console: A person's.
        lines: Takes the console's place where it is given.
    """
    replicas = job.teacher.max_replicas if job.needs_teacher_for_training else 0
    if lines is None:
        with Progress(console, job.name, replicas=replicas) as shown:
            yield shown
    else:
        with lines.captured():
            yield JsonLog(lines, replicas=replicas)


def conclude(report: Report, root: Path, console: Console, lines: JsonLines | None) -> None:
    """Say what came out of a run, and where it lies."""
    student, page = root / "student", root / HTML_FILE
    if lines is None:
        console.print(terminal_table(report))
        console.print(f"student  {student}", soft_wrap=True, highlight=False)
        console.print(f"report   {page}", soft_wrap=True, highlight=False)
        return
    lines.write(
        "report",
        sentence(report),
        evaluation={name: one.model_dump(mode="json") for name, one in report.evaluation.items()},
        student=str(student),
        report=str(page),
    )
