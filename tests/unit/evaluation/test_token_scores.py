"""Scores of single tokens against dense float64 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from token_cases import SPEC, bucket_kl, labels_of, logits_of, scored_by

from raykd.evaluation import token_scores
from raykd.evaluation.compare import teacher_scores
from raykd.evaluation.slices import length_labels, of_tokens, perplexity_of, slice_tables, weighty


@pytest.fixture(scope="module")
def teacher(make_llama: Callable[..., Any]) -> Any:
    return make_llama(1, num_hidden_layers=3)


@pytest.fixture(scope="module")
def student(make_llama: Callable[..., Any]) -> Any:
    return make_llama(2)


@pytest.fixture(scope="module")
def rows(packed_rows: Callable[..., Any], teacher: Any) -> pa.Table:
    """The third row has nothing to learn."""
    made = packed_rows([[30], [9], [1], [12], [9]])
    return scored_by(teacher, made)


@pytest.mark.parametrize("micro_batch", [1, 24, 4096])
def test_a_model_token_by_token(
    rows: pa.Table, teacher: Any, student: Any, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_scores, "MICRO_BATCH_TOKENS", micro_batch)
    found = token_scores.model_tokens(student, rows, SPEC)
    ours, theirs = torch.cat(logits_of(student, rows)), torch.cat(logits_of(teacher, rows))
    labels = torch.cat(labels_of(rows))
    nll = -ours.log_softmax(1).gather(1, labels[:, None])[:, 0]
    assert found.nll_T == pytest.approx(nll.numpy(), abs=1e-5)
    assert found.confidence_T == pytest.approx(ours.softmax(1).amax(1).numpy(), abs=1e-5)
    assert (found.correct_T == (ours.argmax(1) == labels).numpy()).all()
    assert found.kl_T == pytest.approx(bucket_kl(theirs, ours, SPEC.top_k).numpy(), abs=1e-5)
    assert found.agreed_T is not None
    assert (found.agreed_T == (ours.argmax(1) == theirs.argmax(1)).numpy()).all()
    lengths = [len(labels) for labels in labels_of(rows)]
    assert found.row_T.tolist() == np.repeat(np.arange(5), lengths).tolist()
    assert 2 not in found.row_T


def test_without_a_teacher(rows: pa.Table, student: Any) -> None:
    bare = rows.select(["input_ids", "position_ids", "loss_mask"])
    found = token_scores.model_tokens(student, bare, SPEC, has_targets=False)
    with_teacher = token_scores.model_tokens(student, rows, SPEC)
    assert found.kl_T is None
    assert found.agreed_T is None
    assert found.nll_T == pytest.approx(with_teacher.nll_T, abs=1e-6)


def test_the_teacher_by_its_targets(rows: pa.Table, teacher: Any) -> None:
    found = token_scores.teacher_tokens(rows, SPEC)
    theirs, labels = torch.cat(logits_of(teacher, rows)), torch.cat(labels_of(rows))
    assert found.confidence_T == pytest.approx(theirs.softmax(1).amax(1).numpy(), abs=1e-5)
    assert (found.correct_T == (theirs.argmax(1) == labels).numpy()).all()
    with_time = rows.append_column("teacher_s", pa.array([1.0] * rows.num_rows))
    assert perplexity_of(found) == pytest.approx(teacher_scores(with_time)[1].perplexity)


def test_row_means_by_hand() -> None:
    means = token_scores.row_means(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 3)
    assert means[[0, 2]].tolist() == [2.0, 5.0]
    assert np.isnan(means[1])


class TestSlices:
    def test_each_slice_is_its_tokens(self, rows: pa.Table, teacher: Any, student: Any) -> None:
        ours = token_scores.model_tokens(student, rows, SPEC)
        theirs = token_scores.teacher_tokens(rows, SPEC)
        labels = {"kind": ["a", "b", "b", "a", "b"], "one": ["x"] * 5}
        (table,) = slice_tables(labels, of_tokens(ours, theirs))
        assert table.by == "kind"
        assert [one.value for one in table.slices] == ["b", "a"]
        for one, chosen in zip(table.slices, ([1, 4], [0, 3]), strict=True):
            q = torch.cat([logits_of(student, rows)[i] for i in chosen])
            p = torch.cat([logits_of(teacher, rows)[i] for i in chosen])
            follows = torch.cat([labels_of(rows)[i] for i in chosen])
            assert one.tokens == len(q)
            assert one.rows == (3 if one.value == "b" else 2)
            assert one.kl_to_teacher == pytest.approx(bucket_kl(p, q, 16).mean().item(), rel=1e-4)
            agreed = (p.argmax(1) == q.argmax(1)).double().mean().item()
            assert one.top1_agreement == pytest.approx(agreed)
            mean_nll = torch.nn.functional.cross_entropy(q, follows)
            assert one.perplexity == pytest.approx(mean_nll.exp().item(), rel=1e-4)
            right = (p.argmax(1) == follows).double().mean().item()
            assert one.teacher_accuracy == pytest.approx(right)

    def test_many_values_are_lumped(self) -> None:
        num = 40
        tokens = token_scores.TokenScores(
            np.arange(num), np.ones(num), np.ones(num), np.ones(num, dtype=bool)
        )
        values = ["big"] * 10 + [f"v{i}" for i in range(30)]
        (table,) = slice_tables({"c": values}, of_tokens(tokens, None))
        assert len(table.slices) == 21
        assert (table.slices[0].value, table.slices[0].rows) == ("big", 10)
        assert (table.slices[-1].value, table.slices[-1].rows) == ("11 others", 11)
        assert [one.value for one in weighty([table])] == ["big", "11 others"]

    def test_lengths_are_in_order(self) -> None:
        labels = length_labels([1, 32, 33, 64, 65, 128, 129])
        assert labels == [
            *["1 to 32 tokens"] * 2,
            *["33 to 64 tokens"] * 2,
            *["65 to 128 tokens"] * 2,
            "129 to 256 tokens",
        ]
        tokens = token_scores.TokenScores(
            np.arange(7), np.ones(7), np.ones(7), np.ones(7, dtype=bool)
        )
        (table,) = slice_tables({"length": labels[::-1]}, of_tokens(tokens, None))
        assert [one.value.split()[0] for one in table.slices] == ["1", "33", "65", "129"]
