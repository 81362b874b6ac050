"""The texts where a classifier or an encoder is farthest from its teacher, both sides told.

P learned positions of all rows, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raykd.config.classifier import LABELLED
from raykd.evaluation.classify import MeasuredRows
from raykd.evaluation.inspection_data import LabelGuess, WorstText
from raykd.evaluation.label_metrics import ONE_OF, probabilities
from raykd.evaluation.label_scores import Floats, LabelScores
from raykd.evaluation.token_scores import row_means
from raykd.evaluation.worst_rows import EXCERPT_CHARACTERS, NUM_NEXT, NUM_ROWS, Text
from raykd.models.batch import flat


@dataclass(frozen=True, eq=False)
class Sides:
    """A set as both sides see it.

    Attributes:
        rows: The set.
        student: Its outputs, with distances.
        teacher: The same positions.
        places: Of each row, where it stands.
        text: Turns ids into text; None leaves every text out.
    """

    rows: MeasuredRows
    student: LabelScores
    teacher: LabelScores
    places: Sequence[str]
    text: Text | None


def farthest_texts(sides: Sides) -> list[WorstText]:
    """The rows of the largest distance, largest first, each at its farthest position."""
    distance_P = sides.student.distance_P
    if distance_P is None:
        return []
    return _told(sides, np.ones(len(distance_P), dtype=bool), distance_P)


def lost_texts(sides: Sides) -> list[WorstText]:
    """Rows where the teacher has the gold label and the student has not, the farthest first."""
    ours, theirs = sides.student, sides.teacher
    if ours.distance_P is None or ours.right_P is None or theirs.right_P is None:
        return []
    return _told(sides, (theirs.right_P == 1) & (ours.right_P == 0), ours.distance_P)


def _told(sides: Sides, allowed_P: npt.NDArray[np.bool_], distance_P: Floats) -> list[WorstText]:
    """Rows with an allowed position, by their mean distance; each at the farthest of these."""
    row_P = sides.student.row_P
    means = row_means(distance_P, row_P, sides.rows.table.num_rows)
    means[np.bincount(row_P[allowed_P], minlength=len(means)) == 0] = np.nan
    order = np.argsort(-means, kind="stable")
    chosen = [int(row) for row in order[:NUM_ROWS] if not math.isnan(means[row])]
    found = []
    for row in chosen:
        here = np.flatnonzero((row_P == row) & allowed_P)
        spot = int(here[distance_P[here].argmax()])
        found.append(_one(sides, row, spot, float(means[row])))
    return found


def _one(sides: Sides, row: int, spot: int, distance: float) -> WorstText:
    task = sides.rows.spec.task
    ours, theirs = sides.student.outputs_PC[spot], sides.teacher.outputs_PC[spot]
    first = int(np.searchsorted(sides.student.row_P, row))
    told: dict[str, Any] = {
        "place": sides.places[row],
        "distance": math.sqrt(distance) if task == "regression" else distance,
        "words": int((sides.student.row_P == row).sum()),
        "gold": _gold(sides.rows, spot),
    }
    if task == "regression":
        told |= {"teacher_number": float(theirs[0]), "student_number": float(ours[0])}
    if task in LABELLED:
        told |= {"teacher": _guesses(sides.rows, theirs), "student": _guesses(sides.rows, ours)}
    if sides.text is not None:
        told |= _excerpts(sides.rows, row, spot - first, sides.text)
    return WorstText(**told)


def _gold(rows: MeasuredRows, spot: int) -> list[str] | None:
    task, names = rows.spec.task, rows.spec.labels
    if rows.gold_PW is None or task == "embedding" or np.isnan(rows.gold_PW[spot]).any():
        return None
    values = rows.gold_PW[spot]
    if task == "regression":
        return [f"{values[0]:.4g}"]
    if task in ONE_OF:
        return [names[int(values[0])]]
    return [name for name, value in zip(names, values, strict=True) if value > 0.5]


def _guesses(rows: MeasuredRows, outputs_C: Floats) -> list[LabelGuess]:
    found = probabilities(rows.spec.task, outputs_C[None])[0]
    order = np.argsort(-found, kind="stable")[:NUM_NEXT]
    return [
        LabelGuess(label=rows.spec.labels[i], probability=float(found[i])) for i in order.tolist()
    ]


def _excerpts(rows: MeasuredRows, row: int, number: int, text: Text) -> dict[str, str]:
    """A text's beginning; where words have labels, what stands about the word of that number.

    The special tokens about the text are left out.
    """
    one = rows.table.slice(row, 1)
    ids, _ = flat(one, "input_ids")
    positions, _ = flat(one, "position_ids")
    mask, _ = flat(one, "loss_mask")
    end = int(np.flatnonzero(positions)[-1])
    if rows.spec.task != "tokens":
        return {"text": _beginning(text(ids[1:end].tolist()), EXCERPT_CHARACTERS)}
    starts = [*np.flatnonzero(mask).tolist(), end]
    start, stop = starts[number], starts[number + 1]
    before, after = text(ids[1:start].tolist()), text(ids[stop:end].tolist())
    half = EXCERPT_CHARACTERS // 2
    return {
        "text": before if len(before) <= half else "…" + before[1 - half :],
        "word": text(ids[start:stop].tolist()),
        "after": _beginning(after, half),
    }


def _beginning(text: str, num_characters: int) -> str:
    return text if len(text) <= num_characters else text[: num_characters - 1] + "…"
