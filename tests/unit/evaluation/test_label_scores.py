"""A classifier's outputs, position by position: against numpy and torch, computed anew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from label_cases import measured, table_of, texts_of

from raykd.evaluation.label_scores import against_gold, known_mean, label_scores, of_labels
from raykd.evaluation.slices import slice_tables

NAN = math.nan


def outputs(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(0, 2, shape)


def plain_ece(sure: Any, right: Any, num_bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, in a loop."""
    total = 0.0
    for i in range(num_bins):
        inside = (sure > i / num_bins) & (sure <= (i + 1) / num_bins)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - sure[inside].mean())
    return float(total / len(sure))


def test_calibration_of_one_label_of_many() -> None:
    found = outputs(0, 200, 3)
    gold = np.random.default_rng(1).integers(0, 3, (200, 1)).astype(np.float64)
    gold[::10] = NAN
    scores = label_scores(measured("single_label", texts_of(200), None, gold), found)
    known = ~np.isnan(gold[:, 0])
    p = torch.softmax(torch.from_numpy(found[known]), 1).numpy()
    right = p.argmax(1) == gold[known, 0]
    assert scores.calibration is not None
    assert scores.calibration.ece == pytest.approx(plain_ece(p.max(1), right))
    assert scores.calibration.accuracy == pytest.approx(right.mean())
    assert scores.calibration.confidence == pytest.approx(p.max(1).mean())
    assert sum(one.tokens for one in scores.calibration.bins) == 180
    assert scores.right_P is not None
    assert np.isnan(scores.right_P).sum() == 20
    assert known_mean(scores.right_P, np.ones(200, dtype=bool)) == pytest.approx(right.mean())


def test_calibration_of_several_labels_is_over_every_decision() -> None:
    found = outputs(2, 90, 3)
    gold = np.random.default_rng(3).integers(0, 2, (90, 3)).astype(np.float64)
    gold[7] = NAN
    scores = label_scores(measured("multi_label", texts_of(90), None, gold), found)
    kept = np.delete(np.arange(90), 7)
    p = torch.sigmoid(torch.from_numpy(found[kept])).numpy()
    right = (p > 0.5) == gold[kept].astype(bool)
    sure = np.where(p > 0.5, p, 1 - p)
    assert scores.calibration is not None
    assert scores.calibration.ece == pytest.approx(plain_ece(sure.ravel(), right.ravel()))
    assert min(one.low for one in scores.calibration.bins if one.tokens) >= 7 / 15
    # A text is right only if all its labels are.
    everything = np.ones(90, dtype=bool)
    assert known_mean(scores.right_P, everything) == pytest.approx(right.all(1).mean())


def test_words_have_rows_in_common() -> None:
    table = table_of([([1, 5, 6, 7, 2], [1, 3]), ([1, 8, 2], [1])])
    rows = measured("tokens", table, None, [[0], [1], [NAN]])
    scores = label_scores(rows, np.eye(3)[[0, 2, 1]] * 9)
    assert scores.row_P.tolist() == [0, 0, 1]
    assert scores.right_P is not None
    assert scores.right_P[:2].tolist() == [1, 0]
    assert math.isnan(scores.right_P[2])


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression", "embedding"])
def test_distances_of_each_text(task: Any) -> None:
    width = 1 if task == "regression" else 3
    student, teacher = (torch.from_numpy(outputs(seed, 20, width)) for seed in (4, 5))
    rows = measured(task, texts_of(20), teacher.numpy(), None)
    scores = label_scores(rows, student.numpy())
    if task == "single_label":
        wanted = torch.nn.functional.kl_div(
            student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        ).sum(1)
        agreed = student.argmax(1) == teacher.argmax(1)
    elif task == "multi_label":
        p, q = teacher.sigmoid(), student.sigmoid()
        wanted = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(1)
        agreed = ((p > 0.5) == (q > 0.5)).all(1)
    elif task == "regression":
        wanted, agreed = (student - teacher)[:, 0] ** 2, None
    else:
        wanted, agreed = 1 - torch.cosine_similarity(student, teacher), None
    assert scores.distance_P == pytest.approx(wanted.numpy(), abs=1e-12)
    assert (scores.agreed_P is None) == (agreed is None)
    if agreed is not None:
        assert scores.agreed_P.tolist() == agreed.tolist()  # type: ignore[union-attr]
    assert scores.calibration is None


def test_vectors_of_another_width_have_no_distance() -> None:
    rows = measured("embedding", texts_of(4), outputs(6, 4, 3), None)
    assert label_scores(rows, outputs(7, 4, 2)).distance_P is None


def test_slices_by_hand() -> None:
    teacher = np.array([[5.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]])
    student = np.array([[5.0, 0, 0], [0, 5, 0], [0, 5, 0], [0, 0, 5]])
    gold = [[0], [0], [2], [NAN]]
    rows = measured("single_label", texts_of(4), teacher, gold)
    ours, theirs = label_scores(rows, student), label_scores(rows, teacher)
    values = {"kind": ["a", "a", "b", "c"], "same": ["x"] * 4}
    (table,) = slice_tables(values, of_labels(rows, ours, theirs))
    a, b, c = table.slices
    assert (a.value, a.rows, a.tokens, a.accuracy, a.teacher_accuracy) == ("a", 2, 2, 0.5, 1.0)
    # softmax of (5, 0, 0) against (0, 5, 0), and against itself.
    high, low = math.exp(5) / (math.exp(5) + 2), 1 / (math.exp(5) + 2)
    assert a.kl_to_teacher == pytest.approx(5 * (high - low) / 2)
    assert a.top1_agreement == 0.5
    assert (b.accuracy, b.teacher_accuracy, b.kl_to_teacher) == (0.0, 0.0, 0.0)
    assert (c.accuracy, c.teacher_accuracy, c.top1_agreement) == (None, None, 1.0)
    assert {one.perplexity for one in table.slices} == {None}
    alone = slice_tables(values, of_labels(rows, ours, None))
    assert alone[0].slices[0].teacher_accuracy is None


def test_slices_of_numbers_and_vectors() -> None:
    teacher, student = np.array([[1.0], [2.0]]), np.array([[1.5], [2.0]])
    rows = measured("regression", texts_of(2), teacher, [[1.0], [4.0]], ())
    score = of_labels(rows, label_scores(rows, student), label_scores(rows, teacher))
    one = score("x", np.array([True, True]))
    assert (one.mse, one.teacher_mse, one.mse_to_teacher) == (2.125, 2.0, 0.125)
    assert (one.accuracy, one.kl_to_teacher) == (None, None)
    vectors = measured("embedding", texts_of(1), np.array([[1.0, 0.0]]), None, ())
    one = of_labels(vectors, label_scores(vectors, np.array([[1.0, 1.0]])), None)(
        "x", np.array([True])
    )
    assert one.cosine_to_teacher == pytest.approx(math.sqrt(0.5))
    assert (one.mse, one.mse_to_teacher) == (None, None)


def test_both_sides_against_gold() -> None:
    eye = np.eye(3)
    gold = [[0], [1], [2], [0], [NAN]]
    rows = measured("single_label", texts_of(5), eye[[0, 1, 0, 1, 0]], gold)
    ours = label_scores(rows, eye[[0, 2, 2, 2, 0]])
    theirs = label_scores(rows, eye[[0, 1, 0, 1, 0]])
    found = against_gold(ours, theirs)
    assert found is not None
    assert found.model_dump() == {
        "both_right": 1,
        "teacher_alone": 1,
        "student_alone": 1,
        "both_wrong": 1,
    }
    assert against_gold(ours, None) is None
