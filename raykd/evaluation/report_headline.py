"""The headline of a report: one sentence and four figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raykd.evaluation import report_tasks
from raykd.evaluation.report_data import (
    STUDENT,
    TEACHER,
    UNTRAINED,
    ModelFacts,
    ModelScores,
    Report,
    SetScores,
)
from raykd.telemetry.units import count, number, share, size


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of the headline; `tone` is `good`, `bad` or empty."""

    label: str
    value: str
    detail: str
    tone: str = ""


def sentence(report: Report) -> str:
    """What came out, in one sentence."""
    parts: list[str] = []
    if (smaller := _size_change(report)) is not None:
        which = "smaller" if smaller <= 0 else "larger"
        parts.append(f"{share(abs(smaller))} {which} than its teacher")
    if (nearer := _kl_change(report)) is not None:
        which = "closer to it" if nearer <= 0 else "further from it"
        parts.append(f"{share(abs(nearer))} {which} than at its start")
    if report_tasks.is_of_labels(report) and TEACHER not in report.models:
        return f"A student of {'text' if report_tasks.is_masked(report) else 'labels'} alone."
    return f"A student {', and '.join(parts)}." if parts else "A distilled student."


def tiles(report: Report) -> Iterator[Tile]:
    """Size, divergence, agreement and perplexity, as far as they were measured."""
    teacher, student = report.models.get(TEACHER), report.models.get(STUDENT)
    if teacher and student:
        yield _size_tile(teacher, student)
    for name, scores in list(report.evaluation.items())[:1]:
        of_student = scores.models.get(STUDENT)
        if of_student is None:
            continue
        if of_student.kl_to_teacher is not None:
            yield _kl_tile(scores, of_student.kl_to_teacher)
        if of_student.top1_agreement is not None:
            yield _agreement_tile(scores, of_student.top1_agreement)
        # Of a task its own figures follow, perplexity of masked tokens among them.
        if of_student.perplexity is not None and not scores.task:
            yield _perplexity_tile(name, scores, of_student.perplexity)
    for label, value, detail in report_tasks.kept(report):
        yield Tile(label, value, detail)


def _size_tile(teacher: ModelFacts, student: ModelFacts) -> Tile:
    change = _change(teacher.parameters, student.parameters)
    detail = (
        f"{count(teacher.parameters)} → {count(student.parameters)} parameters, "
        f"{size(teacher.bytes)} → {size(student.bytes)}"
    )
    return Tile("Size against the teacher", _signed(change), detail, _tone(change))


def _kl_tile(scores: SetScores, student: float) -> Tile:
    start = _of(scores, UNTRAINED, lambda m: m.kl_to_teacher)
    unit = "masked token" if scores.task == "masked" else "text" if scores.task else "token"
    if start is None:
        return Tile("KL to the teacher", number(student), f"nats a {unit}")
    change = _change(start, student)
    detail = f"{number(start)} → {number(student)} nats a {unit}"
    return Tile("KL to the teacher", _signed(change), detail, _tone(change))


def _agreement_tile(scores: SetScores, student: float) -> Tile:
    start = _of(scores, UNTRAINED, lambda m: m.top1_agreement)
    if start is None:
        return Tile("Top-1 agreement", share(student), "with the teacher")
    tone = "good" if student > start else "bad" if student < start else ""
    return Tile("Top-1 agreement", share(student), f"with the teacher; {share(start)} before", tone)


def _perplexity_tile(set_name: str, scores: SetScores, student: float) -> Tile:
    teacher = _of(scores, TEACHER, lambda m: m.perplexity)
    start = _of(scores, UNTRAINED, lambda m: m.perplexity)
    against = [
        f"{role} {number(value)}"
        for role, value in (("teacher", teacher), ("untrained", start))
        if value is not None
    ]
    return Tile(f"Perplexity, {set_name}", number(student), ", ".join(against))


def _size_change(report: Report) -> float | None:
    teacher, student = report.models.get(TEACHER), report.models.get(STUDENT)
    return _change(teacher.parameters, student.parameters) if teacher and student else None


def _kl_change(report: Report) -> float | None:
    for scores in list(report.evaluation.values())[:1]:
        start = _of(scores, UNTRAINED, lambda m: m.kl_to_teacher)
        end = _of(scores, STUDENT, lambda m: m.kl_to_teacher)
        return None if start is None or end is None else _change(start, end)
    return None


def _of(scores: SetScores, role: str, what: Callable[[ModelScores], float | None]) -> float | None:
    return what(scores.models[role]) if role in scores.models else None


def _change(before: float, after: float) -> float | None:
    """Relative change, negative where it fell; None from zero."""
    return (after - before) / before if before else None


def _signed(change: float | None) -> str:
    if change is None:
        return share(None)
    return ("\N{MINUS SIGN}" if change < 0 else "+") + share(abs(change))


def _tone(change: float | None) -> str:
    """Less is better."""
    return "" if not change else "good" if change < 0 else "bad"
