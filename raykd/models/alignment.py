"""Which layer of the student learns from which of the teacher, and the widths of both. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from raykd.config.representations import RepresentationsConfig
from raykd.errors import ModelError

RELATION_NAMES: Final = ("query", "key", "value")


@dataclass(frozen=True)
class InnerShape:
    """What of a model's inside matters here; from its configuration alone.

    Attributes:
        num_layers: Of its stack.
        hidden_size: What a layer puts out.
        num_heads: Query heads.
        num_key_value_heads: Key-value heads.
        head_size: Of one head.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_size: int

    @classmethod
    def of(cls, config: Any) -> InnerShape:
        """As a `transformers` configuration says."""
        text = config.get_text_config()
        heads = int(text.num_attention_heads)
        hidden = int(text.hidden_size)
        return cls(
            int(text.num_hidden_layers),
            hidden,
            heads,
            int(getattr(text, "num_key_value_heads", None) or heads),
            int(getattr(text, "head_dim", None) or hidden // heads),
        )

    def width(self, relation: str) -> int:
        """Of a projection."""
        heads = self.num_heads if relation == "query" else self.num_key_value_heads
        return heads * self.head_size


@dataclass(frozen=True)
class Alignment:
    """Both models side by side; small enough to travel.

    Attributes:
        pairs: (student layer, teacher layer), ascending by the student's.
        student: The student's inside.
        teacher: The teacher's.
        hidden: Whether hidden states are compared.
        relations: Projections that are compared at the last pair; empty where none is.
        heads: Relation heads.
    """

    pairs: tuple[tuple[int, int], ...]
    student: InnerShape
    teacher: InnerShape
    hidden: bool
    relations: tuple[str, ...]
    heads: int

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Student layers whose hidden states are compared, pair by pair."""
        return tuple(s for s, _ in self.pairs) if self.hidden else ()

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Teacher layers whose hidden states travel, ascending, each once."""
        return tuple(sorted({t for _, t in self.pairs})) if self.hidden else ()

    @property
    def last(self) -> tuple[int, int]:
        """The pair whose attention relations are compared."""
        return self.pairs[-1]


def align(config: RepresentationsConfig, student: InnerShape, teacher: InnerShape) -> Alignment:
    """Bring both models' layers and heads together.

    Raises:
        ModelError: The map names a layer that a side does not have, or the relation heads do not
            divide a projection; names both sides.
    """
    pairs = layer_pairs(config.layers, student.num_layers, teacher.num_layers)
    relations: tuple[str, ...] = ()
    heads = 1
    if (attention := config.attention) is not None:
        relations = tuple(name for name in RELATION_NAMES if name in attention.relations)
        heads = attention.heads or _common_heads(student, teacher)
        _require_divisor(heads, relations, student, teacher)
    return Alignment(pairs, student, teacher, config.hidden is not None, relations, heads)


def layer_pairs(
    layers: Literal["even", "last"] | Mapping[int, int], num_student: int, num_teacher: int
) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) of a map, ascending by the student's.

    `even` gives student layer s, of S, teacher layer ceil((s + 1) T / S) - 1, of T.

    Raises:
        ModelError: A layer is not there; names both sides' numbers of layers.

    Source: `even` as TinyBERT's uniform map (arXiv 1909.10351, section 4.1), rounded up.
    """
    if layers == "last":
        return ((num_student - 1, num_teacher - 1),)
    if layers == "even":
        if num_student > num_teacher:
            raise ModelError(
                f"representations.layers: even spreads the student's layers over the teacher's, "
                f"but the student has {num_student} layers and the teacher {num_teacher}; give a "
                "map such as {3: 7}, or `last`"
            )
        return tuple((s, -(-(s + 1) * num_teacher // num_student) - 1) for s in range(num_student))
    for student, teacher in layers.items():
        if student >= num_student or teacher >= num_teacher:
            raise ModelError(
                f"representations.layers: {{{student}: {teacher}}} does not fit: the student has "
                f"layers 0 to {num_student - 1}, the teacher 0 to {num_teacher - 1}"
            )
    return tuple(sorted(layers.items()))


def _common_heads(student: InnerShape, teacher: InnerShape) -> int:
    sides = (student, teacher)
    return math.gcd(*(n for side in sides for n in (side.num_heads, side.num_key_value_heads)))


def _require_divisor(
    heads: int, relations: tuple[str, ...], student: InnerShape, teacher: InnerShape
) -> None:
    for side, shape in (("student", student), ("teacher", teacher)):
        for name in relations:
            if shape.width(name) % heads:
                raise ModelError(
                    f"representations.attention.heads: {heads} does not divide the {side}'s "
                    f"{name} projection of {shape.width(name)}; the teacher has "
                    f"{teacher.num_heads} query and {teacher.num_key_value_heads} key-value heads "
                    f"of {teacher.head_size}, the student {student.num_heads} and "
                    f"{student.num_key_value_heads} of {student.head_size}: choose a divisor of "
                    "all these projections, or leave `heads` out"
                )
