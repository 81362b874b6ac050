"""How a classifier's figures read: in tables, in the headline, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raykd.evaluation.report_data import STUDENT, TEACHER, UNTRAINED, Report
from raykd.telemetry.units import number

PERPLEXITY: Final = "perplexity"
IN_WORDS: Final = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "mse": "MSE",
    "recall_at_1": "recall@1",
    "mrr": "MRR",
    "cosine_to_teacher": "cosine",
    "mse_to_teacher": "MSE to teacher",
}
"""By a metric's name in the report's JSON."""
SHARES: Final = ("accuracy", "recall_at_1")
"""Metrics that are counts out of all."""
KL_OF_LABELS: Final = "KL from teacher to student over the labels, in nats a text (or word)."
KL_OF_MASKED: Final = (
    "KL from teacher to student over its likeliest ids and one bucket for all others, in nats a "
    "masked token."
)


def columns(report: Report) -> list[str]:
    """Names of the figures before the divergence: the task's own, or perplexity."""
    found = [
        name
        for scores in report.evaluation.values()
        for model in scores.models.values()
        for name in model.metrics
    ]
    return list(dict.fromkeys(found)) if is_of_labels(report) else [PERPLEXITY]


def is_of_labels(report: Report) -> bool:
    """Whether the models are classifiers or sentence encoders."""
    return any(scores.task for scores in report.evaluation.values())


def has_divergence(report: Report) -> bool:
    """Whether KL and agreement were measured: not where no teacher says what it thinks."""
    return any(
        one.kl_to_teacher is not None
        for scores in report.evaluation.values()
        for one in scores.models.values()
    )


def unit(report: Report) -> str:
    """What a loss is counted in."""
    if is_masked(report):
        return "nats a masked token"
    return "a text, or word" if is_of_labels(report) else "nats a token"


def of_divergence(report: Report) -> str:
    """What a classifier's KL is over."""
    return KL_OF_MASKED if is_masked(report) else KL_OF_LABELS


def is_masked(report: Report) -> bool:
    """Whether the models fill masked tokens in."""
    return any(scores.task == "masked" for scores in report.evaluation.values())


def heading(name: str) -> str:
    """How a column reads."""
    return IN_WORDS.get(name, name)


def title(name: str) -> str:
    """The same, where it begins a line."""
    text = heading(name)
    return text[:1].upper() + text[1:]


def text_of(name: str, metrics: dict[str, float], perplexity: float | None) -> str:
    """A figure of a model as text."""
    value = metrics.get(name, perplexity if name == PERPLEXITY else None)
    return _percent(value) if name in SHARES and value is not None else number(value)


def _percent(value: float) -> str:
    """To a tenth, for classifiers differ by less than one."""
    return f"{100 * value:.1f} %"


def kept(report: Report) -> Iterator[tuple[str, str, str]]:
    """(label, value, detail) of the first set's figures that teacher and student both have."""
    for scores in list(report.evaluation.values())[:1]:
        sides = {role: one.metrics for role, one in scores.models.items()}
        teacher, student = sides.get(TEACHER, {}), sides.get(STUDENT, {})
        start = sides.get(UNTRAINED, {})
        for name, value in list(student.items())[:2]:
            said = [
                f"{role} {text_of(name, of_role, None)}"
                for role, of_role in (("teacher", teacher), ("untrained", start))
                if name in of_role
            ]
            if teacher.get(name, 0.0) > 0 and name not in ("mse", PERPLEXITY):
                said.insert(0, f"{_percent(value / teacher[name])} of the teacher's")
            yield title(name), text_of(name, student, None), ", ".join(said)
