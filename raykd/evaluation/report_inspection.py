"""What the report says of `raykd eval`'s findings: sentences, and the calibration plot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raykd.evaluation.drift_data import Drift
from raykd.evaluation.inspection_data import Calibration, GateResult, Inspection, Kept
from raykd.evaluation.plots import Line, line_plot
from raykd.evaluation.report_data import STUDENT, TEACHER, Report
from raykd.evaluation.report_figures import Figure
from raykd.evaluation.slices import weighty
from raykd.telemetry.units import number, share

_SHOWN = ((STUDENT, "student"), (TEACHER, "teacher"))


@dataclass(frozen=True, slots=True)
class Section:
    """One set on the page."""

    name: str
    found: Inspection
    calibration: Figure
    sentences: list[str]
    drift_sentence: str


def sections(report: Report) -> list[Section]:
    """Each set that was looked into."""
    return [
        Section(
            name,
            found,
            _calibration_figure(found),
            list(_sentences(found)),
            drift_sentence(found.drift) if found.drift else "",
        )
        for name, found in report.inspections.items()
    ]


def terminal_lines(report: Report) -> Iterator[str]:
    """The findings in a few lines for the terminal."""
    for section in sections(report):
        yield from section.sentences
        if section.drift_sentence:
            yield section.drift_sentence
        for gate in section.found.gates:
            yield f"{'held' if gate.held else 'FAILED':8} {gate_text(gate)}"


def gate_text(gate: GateResult) -> str:
    """A limit and what was measured."""
    sign = "at least" if gate.at_least else "at most"
    found = "not measured" if gate.value is None else f"{gate.value:.4g}"
    return f"{gate.key} {sign} {gate.limit:.4g}: {found}"


def drift_sentence(drift: Drift) -> str:
    """Whether the sample is like the training text."""
    if not drift.drifted:
        return "No drift: the sample differs from the training text no more than held-out rows do."
    said = "; ".join(
        f"{one.name} {number(one.sample)} (held-out rows {number(one.heldout)})"
        for one in drift.drifted
    )
    return (
        f"Drift beyond sampling noise: {said}. {share(drift.far_share)} of the sample's rows are "
        "unlike anything that was learned."
    )


def _sentences(found: Inspection) -> Iterator[str]:
    if found.kept and (said := ", ".join(_kept(found.kept))):
        yield f"Kept: {said}."
    if STUDENT in found.calibration:
        yield _calibration_sentence(found.calibration)
    for one in found.tasks:
        said = ", ".join(f"{role} {number(value)}" for role, value in one.scores.items())
        yield f"{one.task}, {one.metric}: {said}."
    worst = [one for one in weighty(found.slices) if one.kl_to_teacher is not None]
    if worst:
        least = max(worst, key=lambda one: one.kl_to_teacher or 0.0)
        yield (
            f"Farthest from the teacher on {least.value}: KL {number(least.kl_to_teacher)}, "
            f"top-1 agreement {share(least.top1_agreement)} ({least.rows:,} rows)."
        )


def _kept(kept: Kept) -> Iterator[str]:
    labelled = kept.metric_kept is not None
    if kept.accuracy_kept is not None:
        which = "accuracy" if labelled else "next-token accuracy"
        yield f"{share(kept.accuracy_kept)} of the teacher's {which}"
    elif kept.metric_kept is not None:
        yield f"{share(kept.metric_kept)} of the teacher's figure"
    if kept.gap_closed is not None:
        yield f"{share(kept.gap_closed)} of the way from the untrained student to the teacher"
    if kept.cost_ratio is not None:
        yield f"a written token takes {share(kept.cost_ratio)} of the teacher's time"


def _calibration_sentence(by_role: dict[str, Calibration]) -> str:
    ours = by_role[STUDENT]
    gap = ours.confidence - ours.accuracy
    which = "too sure" if gap > 0 else "not sure enough"
    theirs = f", the teacher's {number(by_role[TEACHER].ece)}" if TEACHER in by_role else ""
    return (
        f"Calibration: the student's ECE is {number(ours.ece)}{theirs}; it is {which} by "
        f"{number(abs(gap))} on average."
    )


def _calibration_figure(found: Inspection) -> Figure:
    lines = [
        Line(role, css, _points(found.calibration[role]))
        for role, css in _SHOWN
        if role in found.calibration
    ]
    lines.append(Line("right as often as sure", "ideal", [(0.0, 0.0), (1.0, 1.0)]))
    plot = line_plot(
        lines,
        title="Accuracy by confidence",
        x_label="confidence in the likeliest next token",
        y_label="share of tokens where it follows",
        format_x=share,
        format_y=share,
        y_top=1.0,
    )
    return Figure("Calibration", lines, plot, "Not measured.")


def _points(one: Calibration) -> list[tuple[float, float | None]]:
    return [(b.confidence, b.accuracy) for b in one.bins if b.confidence is not None]
