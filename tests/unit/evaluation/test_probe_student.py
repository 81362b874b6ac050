"""What a probe says of the student's speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from probed_cases import VOCAB

from raykd.evaluation.probe_student import student_tokens_per_s
from raykd.models.batch import collate


def test_the_students_rate_counts_all_tokens(
    packed_rows: Callable[..., Any], make_llama: Callable[..., Any]
) -> None:
    model = make_llama(2)
    batch = collate(packed_rows([[9], [12]]))
    assert student_tokens_per_s(model, batch, VOCAB, seconds=0.05) > 0
    assert all(p.grad is None for p in model.parameters())
