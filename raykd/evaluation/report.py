"""The report's two files, and its short table for the terminal."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from raykd.errors import RunError, StorageError
from raykd.evaluation import report_tasks
from raykd.evaluation.report_data import STUDENT, ModelScores, Report
from raykd.evaluation.report_inspection import terminal_lines
from raykd.evaluation.report_page import footnotes, models_in_order, render_page
from raykd.telemetry.units import count, number, share, size

__all__ = ["read_report", "terminal_lines", "terminal_table", "write_report"]

JSON_FILE, HTML_FILE = "report.json", "report.html"


def write_report(directory: Path, report: Report) -> None:
    """Write `report.json` and `report.html`, each whole or not at all.

    Args:
        directory: The run directory; it exists.
        report: What they tell.

    Raises:
        StorageError: The directory cannot be written.
    """
    page = render_page(report)
    try:
        _write_whole(directory / JSON_FILE, report.model_dump_json(indent=2) + "\n")
        _write_whole(directory / HTML_FILE, page)
    except OSError as error:
        raise StorageError(
            f"{directory}: the report cannot be written ({error.strerror})"
        ) from None


def read_report(directory: Path) -> Report:
    """Read `report.json` of a run directory.

    Raises:
        RunError: There is none, or it is not a report.
    """
    path = directory / JSON_FILE
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: no such report; the run has not been evaluated yet") from None
    except ValidationError as error:
        raise RunError(
            f"{path}: not a report of this version of raykd: {error.errors()[0]['msg']} at "
            f"{'.'.join(str(part) for part in error.errors()[0]['loc'])}; evaluate the run again"
        ) from None


def terminal_table(report: Report) -> Table:
    """Every model on every set, in 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(report.name),
        title_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("set", overflow="fold")
    table.add_column("model", no_wrap=True)
    of_task = [report_tasks.heading(name) for name in report_tasks.columns(report)]
    against = ("KL [1]", "top-1") if report_tasks.has_divergence(report) else ()
    for name in (*of_task, *against, "tok/s [2]", "weights"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for set_name, scores in report.evaluation.items():
        for i, (role, of_model) in enumerate(models_in_order(scores.models)):
            table.add_row(Text(set_name if i == 0 else ""), *_cells(report, role, of_model))
        table.add_section()
    table.caption = Text("\n".join(f"[{mark}] {text}" for mark, text in footnotes(report)))
    table.caption_justify = "left"
    return table


def _cells(report: Report, role: str, scores: ModelScores) -> list[Text]:
    facts = report.models.get(role)
    cells = [
        role,
        *(
            report_tasks.text_of(name, scores.metrics, scores.perplexity)
            for name in report_tasks.columns(report)
        ),
        *(
            (number(scores.kl_to_teacher), share(scores.top1_agreement))
            if report_tasks.has_divergence(report)
            else ()
        ),
        count(scores.tokens_per_s),
        size(facts.bytes if facts else None),
    ]
    return [Text(cell, style="bold" if role == STUDENT else "") for cell in cells]


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
