"""What is counted and told on a page about text, and on one about a classifier's task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from raykd.evaluation.report_data import STUDENT, SetScores
from raykd.evaluation.report_tasks import heading


@dataclass(frozen=True, slots=True)
class Words:
    """Of one set.

    Attributes:
        rows: What rows are.
        decisions: What calibration is over.
        predicted: What a model is sure of.
        right: What the share that is right is of.
        accuracy: The name of the share that is right.
        timed: What the cost ratio is of.
        distance: What `WorstText.distance` is.
        is_text: Whether models continue text.
        figure: The name of a task's first figure.
    """

    rows: str
    decisions: str
    predicted: str
    right: str
    accuracy: str
    timed: str
    distance: str
    is_text: bool = False
    figure: str = ""


_OF_TEXT: Final = Words(
    rows="rows",
    decisions="tokens",
    predicted="the likeliest next token",
    right="share of tokens where it follows",
    accuracy="next-token accuracy",
    timed="a written token",
    distance="KL",
    is_text=True,
)
_OF_ONE: Final = Words(
    rows="texts",
    decisions="texts",
    predicted="the likeliest label",
    right="share of texts where it is right",
    accuracy="accuracy",
    timed="a text",
    distance="KL",
)
_BY_TASK: Final = {
    "tokens": replace(_OF_ONE, decisions="words", right="share of words where it is right"),
    "multi_label": replace(
        _OF_ONE,
        decisions="labels",
        predicted="a label, or that it is none",
        right="share of labels where it is right",
    ),
    "regression": replace(_OF_ONE, distance="difference"),
    "embedding": replace(_OF_ONE, distance="1 - cosine"),
}


def words_of(scores: SetScores | None) -> Words:
    """How a set is spoken of.

    Args:
        scores: Its figures, which say the task; None is text.
    """
    task = scores.task if scores is not None else None
    if scores is None or task is None:
        return _OF_TEXT
    student = scores.models.get(STUDENT)
    first = next(iter(student.metrics), "") if student is not None else ""
    return replace(_BY_TASK.get(task, _OF_ONE), figure=heading(first))
