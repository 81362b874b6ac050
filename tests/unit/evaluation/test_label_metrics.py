"""A task's figures, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raykd.evaluation.label_metrics import agreement, gold_metrics

NAN = math.nan


def logits(*best: int, num: int = 3) -> np.ndarray:
    return np.eye(num)[list(best)] * 5.0


def test_one_of_many() -> None:
    gold = np.array([[0.0], [0.0], [1.0], [NAN], [1.0]])
    found = gold_metrics("single_label", logits(0, 1, 1, 2, 1), gold)
    # Class 0: precision 1, recall 1/2; class 1: precision 2/3, recall 1.
    assert found == pytest.approx({"accuracy": 0.75, "macro_f1": (2 / 3 + 4 / 5) / 2})


def test_several_at_once() -> None:
    gold = np.array([[1.0, 0.0], [1.0, 1.0], [NAN, NAN]])
    outputs = np.array([[2.0, -1.0], [3.0, -2.0], [1.0, 1.0]])
    found = gold_metrics("multi_label", outputs, gold)
    assert found == pytest.approx({"micro_f1": 0.8, "macro_f1": 0.5, "accuracy": 0.5})


def test_numbers() -> None:
    found = gold_metrics(
        "regression", np.array([[1.0], [2.0], [10.0]]), np.array([[1.0], [3.0], [4.0]])
    )
    assert found["spearman"] == pytest.approx(1.0)
    x, y = np.array([1.0, 2.0, 10.0]), np.array([1.0, 3.0, 4.0])
    assert found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found["mse"] == pytest.approx((0 + 1 + 36) / 3)
    still = gold_metrics("regression", np.ones((3, 1)), np.array([[1.0], [3.0], [4.0]]))
    assert still["spearman"] == 0.0


def test_retrieval_counts_ties_against_the_model() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 1], [2, 0.0], [0, 3], [0, 1.0]])
    gold = np.array([[7, 0, NAN], [8, 0, NAN], [9, 0, NAN], [7, 1, NAN], [8, 1, NAN], [9, 1, NAN]])
    found = gold_metrics("embedding", vectors, gold)
    # The first finds its own; the second's is as near as the third's; the third's are all alike.
    assert found == pytest.approx({"recall_at_1": 1 / 3, "mrr": (1 + 1 / 2 + 1 / 3) / 3})


def test_pairs_with_a_likeness() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0], [0, 1.0], [1, 0], [1, 2.0]])
    gold = np.array([[0, 0, 5], [0, 1, 5], [1, 0, 1], [1, 1, 1], [2, 0, 2], [2, 1, 2.0]])
    assert gold_metrics("embedding", vectors, gold) == pytest.approx({"spearman": 1.0})


def test_half_a_pair_is_no_pair() -> None:
    assert gold_metrics("embedding", np.eye(2), np.array([[0, 0, NAN], [1, 1, NAN]])) == {}


def test_nothing_is_known() -> None:
    assert gold_metrics("single_label", logits(0), np.array([[NAN]])) == {}
    assert gold_metrics("single_label", logits(0), None) == {}


def test_agreement_with_the_teacher() -> None:
    student, teacher = np.array([[0.0, 1.0]]), np.array([[0.0, 3.0]])
    kl, agreed, more = agreement("single_label", student, teacher)
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))
    assert kl == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert (agreed, more) == (1.0, {})
    several, agreed, _ = agreement("multi_label", np.array([[1.0]]), np.array([[3.0]]))
    assert several == pytest.approx(kl)
    _, _, more = agreement("embedding", np.array([[1.0, 0], [0, 2]]), np.array([[2.0, 0], [3, 0]]))
    assert more == pytest.approx({"cosine_to_teacher": 0.5})
    _, _, more = agreement("regression", np.array([[1.0]]), np.array([[3.0]]))
    assert more == {"mse_to_teacher": 4.0}
