"""What the report says of `raykd eval`'s findings: sentences, and the calibration plot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from raykd.evaluation.drift_data import Drift
from raykd.evaluation.inspection_data import (
    AgainstGold,
    Calibration,
    GateResult,
    Inspection,
    Kept,
    SliceScores,
    SliceTable,
    WorstText,
)
from raykd.evaluation.plots import Line, line_plot
from raykd.evaluation.report_data import STUDENT, TEACHER, Report
from raykd.evaluation.report_figures import Figure
from raykd.evaluation.report_words import Words, words_of
from raykd.evaluation.slices import weighty
from raykd.telemetry.units import number, share

_SHOWN = ((STUDENT, "student"), (TEACHER, "teacher"))
_COLUMNS: Final = (
    ("kl_to_teacher", "KL to teacher", number),
    ("top1_agreement", "Top-1 agreement", share),
    ("accuracy", "Accuracy", share),
    ("teacher_accuracy", "Teacher's", share),
    ("perplexity", "Perplexity", number),
    ("teacher_perplexity", "Teacher's", number),
    ("mse_to_teacher", "MSE to teacher", number),
    ("cosine_to_teacher", "Cosine to teacher", number),
    ("mse", "MSE", number),
    ("teacher_mse", "Teacher's", number),
)
"""Of slices: field, heading, and how it reads."""


@dataclass(frozen=True, slots=True)
class SlicePage:
    """A table of slices: only columns in which something is known."""

    by: str
    headings: list[str]
    rows: list[tuple[SliceScores, list[str]]]


@dataclass(frozen=True, slots=True)
class TextList:
    """Texts told one by one."""

    title: str
    explained: str
    texts: list[WorstText]


@dataclass(frozen=True, slots=True)
class Section:
    """One set on the page."""

    name: str
    found: Inspection
    words: Words
    calibration: Figure
    tables: list[SlicePage]
    worst: list[TextList]
    sentences: list[str]
    drift_sentence: str


def sections(report: Report) -> list[Section]:
    """Each set that was looked into."""
    return [
        _section(name, found, words_of(report.evaluation.get(name)))
        for name, found in report.inspections.items()
    ]


def _section(name: str, found: Inspection, words: Words) -> Section:
    return Section(
        name,
        found,
        words,
        _calibration_figure(found, words),
        [_slice_page(table) for table in found.slices],
        [one for one in _text_lists(found, words) if one.texts],
        list(_sentences(found, words)),
        drift_sentence(found.drift) if found.drift else "",
    )


def _slice_page(table: SliceTable) -> SlicePage:
    shown = [
        column
        for column in _COLUMNS
        if any(getattr(one, column[0]) is not None for one in table.slices)
    ]
    rows = [
        (one, [reads(getattr(one, field)) for field, _, reads in shown]) for one in table.slices
    ]
    return SlicePage(table.by, [heading for _, heading, _ in shown], rows)


def _text_lists(found: Inspection, words: Words) -> list[TextList]:
    at_word = " Each at the word where the two differ most." if words.decisions == "words" else ""
    return [
        TextList(
            "Texts farthest from the teacher",
            f"By {words.distance} of the student from its teacher.{at_word}",
            found.worst_texts,
        ),
        TextList(
            "Texts where the teacher is right and the student wrong",
            "By the gold label, those farthest from the teacher first.",
            found.lost_texts,
        ),
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


def _sentences(found: Inspection, words: Words) -> Iterator[str]:
    if found.kept and (said := ", ".join(_kept(found.kept, words))):
        yield f"Kept: {said}."
    if found.against_gold is not None:
        yield _against_gold(found.against_gold, words)
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
            f"top-1 agreement {share(least.top1_agreement)} ({least.rows:,} {words.rows})."
        )


def _kept(kept: Kept, words: Words) -> Iterator[str]:
    if kept.accuracy_kept is not None:
        yield f"{_kept_share(kept.accuracy_kept, words)} of the teacher's {words.accuracy}"
    elif kept.metric_kept is not None:
        yield f"{_kept_share(kept.metric_kept, words)} of the teacher's {words.figure}"
    if kept.gap_closed is not None:
        yield f"{share(kept.gap_closed)} of the way from the untrained student to the teacher"
    if kept.cost_ratio is not None:
        yield f"{words.timed} takes {share(kept.cost_ratio)} of the teacher's time"


def _kept_share(value: float, words: Words) -> str:
    """To a tenth of classifiers, which differ by less than one per cent."""
    return share(value) if words.is_text else f"{100 * value:.1f} %"


def _against_gold(counts: AgainstGold, words: Words) -> str:
    total = counts.both_right + counts.teacher_alone + counts.student_alone + counts.both_wrong
    units = "words" if words.decisions == "words" else "texts"
    return (
        f"Of {total:,} {units} with a gold label the student is wrong on "
        f"{counts.teacher_alone:,} where the teacher is right, and right on "
        f"{counts.student_alone:,} where it is wrong; both are wrong on {counts.both_wrong:,}."
    )


def _calibration_sentence(by_role: dict[str, Calibration]) -> str:
    ours = by_role[STUDENT]
    gap = ours.confidence - ours.accuracy
    which = "too sure" if gap > 0 else "not sure enough"
    theirs = f", the teacher's {number(by_role[TEACHER].ece)}" if TEACHER in by_role else ""
    return (
        f"Calibration: the student's ECE is {number(ours.ece)}{theirs}; it is {which} by "
        f"{number(abs(gap))} on average."
    )


def _calibration_figure(found: Inspection, words: Words) -> Figure:
    lines = [
        Line(role, css, _points(found.calibration[role]))
        for role, css in _SHOWN
        if role in found.calibration
    ]
    lines.append(Line("right as often as sure", "ideal", [(0.0, 0.0), (1.0, 1.0)]))
    plot = line_plot(
        lines,
        title="Accuracy by confidence",
        x_label=f"confidence in {words.predicted}",
        y_label=words.right,
        format_x=share,
        format_y=share,
        y_top=1.0,
    )
    return Figure("Calibration", lines, plot, "Not measured.")


def _points(one: Calibration) -> list[tuple[float, float | None]]:
    return [(b.confidence, b.accuracy) for b in one.bins if b.confidence is not None]
