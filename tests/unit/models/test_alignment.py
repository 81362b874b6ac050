"""Layer maps and relation heads: what fits, and what is said where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.config.representations import RepresentationsConfig
from raykd.errors import ModelError
from raykd.models.alignment import InnerShape, align, layer_pairs

STUDENT = InnerShape(3, 24, 4, 2, 6)
TEACHER = InnerShape(7, 64, 8, 4, 8)


def config(**fields: Any) -> RepresentationsConfig:
    return RepresentationsConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("last", 3, 7, [(2, 6)]),
        ("even", 3, 6, [(0, 1), (1, 3), (2, 5)]),
        ("even", 3, 7, [(0, 2), (1, 4), (2, 6)]),
        ("even", 2, 2, [(0, 0), (1, 1)]),
        ({2: 6, 0: 1}, 3, 7, [(0, 1), (2, 6)]),
    ],
)
def test_pairs(layers: Any, student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    assert list(layer_pairs(layers, student, teacher)) == pairs


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({3: 6}, r"\{3: 6\} does not fit: the student has layers 0 to 2, the teacher 0 to 6"),
        ({2: 7}, r"\{2: 7\} does not fit: the student has layers 0 to 2, the teacher 0 to 6"),
    ],
)
def test_a_map_that_does_not_fit_names_both_sides(layers: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        align(config(layers=layers, hidden={}), STUDENT, TEACHER)


def test_a_student_deeper_than_its_teacher_cannot_be_spread() -> None:
    with pytest.raises(ModelError, match="the student has 7 layers and the teacher 3"):
        align(config(layers="even", hidden={}), TEACHER, STUDENT)


def test_what_travels() -> None:
    found = align(config(layers={0: 4, 1: 4, 2: 6}, hidden={}, attention={}), STUDENT, TEACHER)
    assert found.student_layers == (0, 1, 2)
    assert found.teacher_layers == (4, 6), "each once"
    assert found.last == (2, 6)
    assert found.heads == 2, "divides 4, 2, 8 and 4"
    assert [found.teacher.width(name) for name in found.relations] == [64, 32, 32]
    attention = align(config(attention={"relations": ["value", "query"]}), STUDENT, TEACHER)
    assert attention.relations == ("query", "value")
    assert attention.teacher_layers == attention.student_layers == ()


def test_heads_that_do_not_divide_a_projection() -> None:
    asked = config(attention={"heads": 8})
    with pytest.raises(ModelError, match=r"heads: 8 does not divide the student's key projection"):
        align(asked, STUDENT, TEACHER)
    # 24 and 64 are both divided by 8; keys of 12 and 32 by 4.
    assert align(config(attention={"heads": 4}), STUDENT, TEACHER).heads == 4
    queries = config(attention={"heads": 8, "relations": ["query"]})
    assert align(queries, STUDENT, TEACHER).heads == 8


def test_shapes_are_read_from_configurations(llama_config: Any) -> None:
    assert InnerShape.of(llama_config()) == InnerShape(2, 32, 4, 2, 8)
    from transformers import GPT2Config

    assert InnerShape.of(GPT2Config(n_layer=3, n_embd=32, n_head=4)) == InnerShape(3, 32, 4, 4, 8)
