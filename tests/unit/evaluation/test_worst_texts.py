"""The texts where a student is farthest from its teacher, and how they are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_cases import measured, table_of, texts_of

from raykd.evaluation.label_scores import label_scores
from raykd.evaluation.worst_texts import Sides, farthest_texts, lost_texts

NAN = math.nan


def text(ids: Sequence[int]) -> str:
    return "".join(f"<{i}>" for i in ids)


def sides(
    task: Any, table: pa.Table, student: Any, teacher: Any, gold: Any = None, words: Any = text
) -> Sides:
    rows = measured(task, table, np.asarray(teacher, dtype=np.float64), gold)
    ours = label_scores(rows, np.asarray(student, dtype=np.float64))
    theirs = label_scores(rows, np.asarray(teacher, dtype=np.float64))
    return Sides(rows, ours, theirs, [f"t:{i + 1}" for i in range(table.num_rows)], words)


def test_the_farthest_come_first() -> None:
    teacher = np.zeros((14, 3))
    student = np.zeros((14, 3))
    student[:, 0] = np.random.default_rng(0).permutation(14) / 2
    gold = [[0]] * 13 + [[NAN]]
    found = farthest_texts(sides("single_label", texts_of(14), student, teacher, gold))
    # The teacher is even: the larger a student's one logit, the farther it is.
    order = np.argsort(-student[:, 0])[:10]
    assert [one.place for one in found] == [f"t:{row + 1}" for row in order]
    logits = student[order[0]]
    q = np.exp(logits) / np.exp(logits).sum()
    assert found[0].distance == pytest.approx(float(-np.log(3 * q).mean()))
    assert found[0].student[0].label == "wind"
    assert found[0].student[0].probability == pytest.approx(q[0])
    assert [one.probability for one in found[0].teacher] == pytest.approx([1 / 3] * 3)
    assert {tuple(one.gold or ["?"]) for one in found} <= {("wind",), ("?",)}
    number = order[0] % 4 + 3
    assert found[0].text == text(range(10, 10 + number)), "without special tokens and padding"


def test_where_the_teacher_is_right_alone() -> None:
    eye = np.eye(3)
    gold = [[0], [0], [0], [NAN], [0]]
    student = [eye[1] * 2, eye[0], eye[1] * 4, eye[1], eye[1] * 9]
    teacher = [eye[0], eye[0], eye[0], eye[0], eye[2]]
    found = lost_texts(sides("single_label", texts_of(5), student, teacher, gold))
    assert [one.place for one in found] == ["t:3", "t:1"]
    assert lost_texts(sides("single_label", texts_of(5), student, teacher)) == []


def test_a_word_is_shown_where_it_stands() -> None:
    # Words of tokens 5, 6+7, 8; then one of 9.
    table = table_of([([1, 5, 6, 7, 8, 2], [1, 2, 4]), ([1, 9, 2], [1])])
    teacher = np.zeros((4, 3))
    student = np.zeros((4, 3))
    student[1, 2], student[3, 0] = 9.0, 2.0
    gold = [[0], [1], [NAN], [NAN]]
    first, second = farthest_texts(sides("tokens", table, student, teacher, gold))
    assert (first.place, first.words, second.words) == ("t:1", 3, 1)
    assert (first.text, first.word, first.after) == ("<5>", "<6><7>", "<8>")
    assert (first.gold, first.student[0].label) == (["stone"], "light")
    assert (second.text, second.word, second.after, second.gold) == ("", "<9>", "", None)


def test_the_last_word_ends_before_the_special_token() -> None:
    table = table_of([([1, 5, 6, 7, 2], [1, 2])])
    student = np.array([[0.0, 0, 0], [0, 5, 0]])
    (found,) = farthest_texts(sides("tokens", table, student, np.zeros((2, 3))))
    assert (found.text, found.word, found.after) == ("<5>", "<6><7>", "")


def test_several_labels() -> None:
    student, teacher = [[3.0, -1.0, 2.0]], [[-1.0, 0.5, 2.0]]
    (found,) = farthest_texts(sides("multi_label", texts_of(1), student, teacher, [[0, 1, 1]]))
    assert found.gold == ["stone", "light"]
    assert [one.label for one in found.teacher] == ["light", "stone", "wind"]
    assert found.teacher[0].probability == pytest.approx(1 / (1 + math.exp(-2)))


def test_numbers_and_vectors() -> None:
    (far, near) = farthest_texts(
        sides("regression", texts_of(2), [[1.0], [5.0]], [[1.5], [2.0]], [[1.25], [NAN]])
    )
    assert (far.place, far.distance, far.teacher_number, far.student_number) == ("t:2", 3, 2, 5)
    assert (far.gold, near.gold, near.distance) == (None, ["1.25"], 0.5)
    vectors = sides("embedding", texts_of(2), [[1.0, 0], [0, 1]], [[1.0, 0], [1, 1]], [[0, 0, NAN]])
    first, second = farthest_texts(vectors)
    assert first.distance == pytest.approx(1 - math.sqrt(0.5))
    assert (first.place, first.gold, first.teacher, second.distance) == ("t:2", None, [], 0)


def test_texts_are_left_out() -> None:
    table = table_of([([1, 5, 6, 2], [1, 2])])
    (found,) = farthest_texts(
        sides("tokens", table, np.eye(3)[:2], np.zeros((2, 3)), [[0], [1]], None)
    )
    assert (found.text, found.word, found.after) == (None, None, None)
    assert found.student


def test_long_texts_are_cut() -> None:
    table = table_of([([1, *range(10, 200), 2], [95, 96])], longest=200)
    outputs = np.array([[5.0, 0, 0], [0, 0, 0]])
    (found,) = farthest_texts(sides("tokens", table, outputs, np.zeros((2, 3))))
    assert found.text is not None
    assert found.after is not None
    assert (len(found.text), found.text[0], found.text[-5:]) == (140, "…", text([103]))
    assert found.word == text([104])
    assert (len(found.after), found.after[:5], found.after[-1]) == (140, text([105]), "…")
    (whole,) = farthest_texts(
        sides(
            "single_label",
            table_of([([1, *range(10, 200), 2], [0])], longest=200),
            np.eye(3)[:1],
            np.zeros((1, 3)),
        )
    )
    assert whole.text is not None
    assert (len(whole.text), whole.text[-1]) == (280, "…")
