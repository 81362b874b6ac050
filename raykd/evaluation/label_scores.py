"""What a classifier or an encoder puts out at every learned position of a set, held one by one.

P learned positions of all rows, C outputs, W gold values a position, D decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.config.classifier import LABELLED
from raykd.evaluation.calibration import calibration_of
from raykd.evaluation.classify import MeasuredRows
from raykd.evaluation.inspection_data import AgainstGold, Calibration, SliceScores
from raykd.evaluation.label_metrics import distances, probabilities
from raykd.evaluation.slices import Score
from raykd.evaluation.token_scores import tokens_of

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LOOKED_INTO: Final = (*LABELLED, "regression", "embedding")
"""Tasks whose outputs are looked into; of any other there are its figures alone."""


@dataclass(frozen=True, eq=False)
class LabelScores:
    """One model on P positions, row after row.

    Attributes:
        row_P: The row that a position stands in.
        outputs_PC: Logits, numbers or vectors.
        right_P: 1 where all its labels are the gold ones, else 0, NaN where nobody knows; None
            where there are no gold labels.
        error_P: Squared difference from the gold number, NaN where nobody knows; None of labels.
        distance_P: From the teacher, as `label_metrics.distances` says; None without a teacher.
        agreed_P: Whether both have the same labels; None without a teacher, or of no labels.
        calibration: Over all decisions whose gold label is known; None where none is.
    """

    row_P: npt.NDArray[np.int64]
    outputs_PC: Floats
    right_P: Floats | None = None
    error_P: Floats | None = None
    distance_P: Floats | None = None
    agreed_P: Flags | None = None
    calibration: Calibration | None = None


def label_scores(rows: MeasuredRows, outputs_PC: Floats) -> LabelScores:
    """Hold a model's outputs against the gold labels and its teacher's outputs.

    Args:
        rows: The set.
        outputs_PC: On all its positions.
    """
    task, teacher_PC = rows.spec.task, rows.teacher_PC
    right_P = error_P = calibration = distance_P = agreed_P = None
    if rows.gold_PW is not None and task in LABELLED:
        right_P, calibration = _right(rows, outputs_PC, rows.gold_PW)
    if rows.gold_PW is not None and task == "regression":
        error_P = np.square(outputs_PC[:, 0] - rows.gold_PW[:, 0])
    # A student that has not learned its projection yet has vectors of another width.
    if teacher_PC is not None and teacher_PC.shape[1] == outputs_PC.shape[1]:
        distance_P, agreed_P = distances(task, outputs_PC, teacher_PC)
    row_P = tokens_of(rows.table)
    return LabelScores(row_P, outputs_PC, right_P, error_P, distance_P, agreed_P, calibration)


def _right(
    rows: MeasuredRows, outputs_PC: Floats, gold_PW: Floats
) -> tuple[Floats, Calibration | None]:
    """Whether each position is right, and how sure each decision was.

    A decision is the likeliest label; where a text may have several, yes or no to each of them.
    """
    known_P = ~np.isnan(gold_PW).any(1)
    gold_KW, sure_KC = gold_PW[known_P], probabilities(rows.spec.task, outputs_PC[known_P])
    if rows.spec.task == "multi_label":
        correct_KD = (outputs_PC[known_P] > 0) == (gold_KW > 0.5)
        sure_KD = np.maximum(sure_KC, 1.0 - sure_KC)
    else:
        correct_KD = sure_KC.argmax(1)[:, None] == gold_KW
        sure_KD = sure_KC.max(1)[:, None]
    right_P = np.full(len(gold_PW), np.nan)
    right_P[known_P] = correct_KD.all(1)
    if not known_P.any():
        return right_P, None
    return right_P, calibration_of(sure_KD.ravel(), correct_KD.ravel())


def of_labels(rows: MeasuredRows, student: LabelScores, teacher: LabelScores | None) -> Score:
    """Measures slices of texts.

    Args:
        rows: The set.
        student: Its outputs.
        teacher: The same positions; None where nobody asked it.
    """
    task = rows.spec.task

    def score(value: str, of_slice: Flags) -> SliceScores:
        chosen_P = of_slice[student.row_P]
        far = known_mean(student.distance_P, chosen_P)
        return SliceScores(
            value=value,
            rows=int(of_slice.sum()),
            tokens=int(chosen_P.sum()),
            accuracy=known_mean(student.right_P, chosen_P),
            teacher_accuracy=known_mean(teacher.right_P, chosen_P) if teacher else None,
            mse=known_mean(student.error_P, chosen_P),
            teacher_mse=known_mean(teacher.error_P, chosen_P) if teacher else None,
            kl_to_teacher=far if task in LABELLED else None,
            top1_agreement=known_mean(student.agreed_P, chosen_P),
            mse_to_teacher=far if task == "regression" else None,
            cosine_to_teacher=1.0 - far if task == "embedding" and far is not None else None,
        )

    return score


def known_mean(values_P: Floats | Flags | None, chosen_P: Flags) -> float | None:
    """The mean of chosen values that are known; None where none is."""
    if values_P is None:
        return None
    values = values_P[chosen_P].astype(np.float64)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def against_gold(student: LabelScores, teacher: LabelScores | None) -> AgainstGold | None:
    """On how many positions each side is right; None where gold labels or a teacher are missing."""
    if teacher is None or student.right_P is None or teacher.right_P is None:
        return None
    known_P = ~np.isnan(student.right_P)
    if not known_P.any():
        return None
    ours_K, theirs_K = student.right_P[known_P] == 1, teacher.right_P[known_P] == 1
    return AgainstGold(
        both_right=int((ours_K & theirs_K).sum()),
        teacher_alone=int((~ours_K & theirs_K).sum()),
        student_alone=int((ours_K & ~theirs_K).sum()),
        both_wrong=int((~ours_K & ~theirs_K).sum()),
    )
