"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import yaml

from raykd.evaluation import report_tasks
from raykd.evaluation.report_data import STUDENT, TEACHER, UNTRAINED, Report, TrainingTotals
from raykd.evaluation.report_figures import figures
from raykd.evaluation.report_headline import sentence, tiles
from raykd.evaluation.report_inspection import sections
from raykd.telemetry.units import count, duration, number, share, size

KL_IS_A_BOUND = (
    "KL over the teacher's top-K ids plus one bucket for all others: a lower bound of the full KL, "
    "in nats a token."
)
SPEEDS_DIFFER = (
    "The teacher's rate is measured through its service, the others' in a bare forward pass."
)
_ROLES = {TEACHER: "Teacher", UNTRAINED: "Untrained", STUDENT: "Student"}
_NUM_STAGE_COLOURS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a stacked bar."""

    label: str
    share: float
    text: str
    css: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A stacked bar."""

    title: str
    parts: list[Part]


def render_page(report: Report) -> str:
    """The page; every value of the report is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, count=count, share=share, size=size, duration=duration, plain=_plain
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        roles=_ROLES,
        in_order=models_in_order,
        columns=report_tasks.columns(report),
        title=report_tasks.title,
        text_of=report_tasks.text_of,
        inspections=sections(report),
        sentence=sentence(report),
        tiles=list(tiles(report)),
        when=_when(report),
        figures=figures(report) if report.training else [],
        bars=list(_bars(report)),
        verdict=_verdict(report.training),
        footnotes=footnotes(report),
        hardware=list(_leaves(report.hardware)),
        job_yaml=yaml.safe_dump(report.job, sort_keys=False, allow_unicode=True),
    )


def footnotes(report: Report) -> list[tuple[str, str]]:
    """(mark, text) of what the tables' figures are; a mark keeps its number where one is absent."""
    speeds = ("2", SPEEDS_DIFFER)
    if not report_tasks.has_divergence(report):
        return [speeds]
    if report_tasks.is_of_labels(report):
        return [("1", report_tasks.of_divergence(report)), speeds]
    top_k = sorted({scores.top_k for scores in report.evaluation.values()})
    which = f" K = {', '.join(str(k) for k in top_k)}." if top_k else ""
    return [("1", KL_IS_A_BOUND + which), speeds]


def models_in_order(models: Mapping[str, T]) -> list[tuple[str, T]]:
    """Teacher, untrained, student, then any others."""
    known = [role for role in _ROLES if role in models]
    return [(role, models[role]) for role in [*known, *(r for r in models if r not in _ROLES)]]


def _when(report: Report) -> str:
    try:
        began, ended = (datetime.fromisoformat(t) for t in (report.started, report.finished))
        took = duration((ended - began).total_seconds())
    except (ValueError, TypeError):  # not ISO, or only one of them with a time zone
        return f"{report.started} to {report.finished}"
    return f"{ended:%-d %B %Y, %H:%M} {ended.tzname() or ''}".rstrip() + f" · took {took}"


def _bars(report: Report) -> Iterator[Bar]:
    training = report.training
    if training and training.wait_share is not None:
        waits = training.wait_share
        yield Bar(
            "Student",
            [
                Part("learning", 1 - waits, share(1 - waits), "student"),
                Part("waiting for the teacher", waits, share(waits), "idle"),
            ],
        )
    if training and training.teacher_busy_share is not None:
        busy, held_back = training.teacher_busy_share, training.teacher_held_back_share or 0.0
        yield Bar(
            "Teacher, while the student trained",
            [
                Part("scoring", busy, share(busy), "teacher"),
                Part("held back by the student", held_back, share(held_back), "idle"),
            ],
        )
    total = sum(stage.seconds for stage in report.stages)
    if total > 0:
        yield Bar(f"The whole run, {duration(total)}", _stage_parts(report, total))


def _stage_parts(report: Report, total: float) -> list[Part]:
    return [
        Part(
            stage.name,
            stage.seconds / total,
            duration(stage.seconds),
            f"stage-{i % _NUM_STAGE_COLOURS}",
        )
        for i, stage in enumerate(report.stages)
    ]


def _verdict(training: TrainingTotals | None) -> str:
    """Who set the pace."""
    if training is None or training.wait_share is None:
        return ""
    waits, held_back = training.wait_share, training.teacher_held_back_share
    if held_back is None:
        return "The teacher was not asked while the student trained."
    if waits < 0.1 and held_back < 0.1:
        return "Teacher and student kept each other busy."
    if waits > held_back:
        return (
            "The teacher set the pace: another replica, or targets kept from an earlier run, would "
            "shorten the run."
        )
    return "The student set the pace: the teacher had time to spare."


def _plain(value: Any) -> str:
    """A statistic as text: counts with their thousands apart, measures rounded."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}".replace("_", " "), _plain(value)
