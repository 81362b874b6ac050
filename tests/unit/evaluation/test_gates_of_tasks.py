"""Limits that a task's models cannot have are refused before anything is run."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from raykd.config.classifier import Task
from raykd.errors import JobError
from raykd.evaluation.gates import KEYS, Gate
from raykd.evaluation.gates_of_tasks import MEASURED, OF_TEXT, require_measurable


def gate(key: str) -> Gate:
    return Gate(key, 0.5, KEYS[key].higher_is_better)


@pytest.mark.parametrize(
    ("key", "task", "said"),
    [
        ("perplexity", "single_label", "--fail-over perplexity=0.5: `classifier.task: single_"),
        ("written_tokens_per_s", "tokens", "no such figure; there are agreement, accuracy"),
        ("ece", "regression", "there are cost_ratio|there are .*spearman.*mse_to_teacher"),
        ("worst_slice_kl", "embedding", "there are .*recall_at_1, mrr"),
        ("micro_f1", "single_label", "no such figure"),
        ("cost_ratio", "masked", "there are .*perplexity"),
        ("macro_f1", None, "--fail-under macro_f1=0.5: a model of text has no such figure"),
    ],
)
def test_refused(key: str, task: Any, said: str) -> None:
    with pytest.raises(JobError) as raised:
        require_measurable([gate("far_rows"), gate(key)], task)
    assert re.search(said, str(raised.value)), raised.value


def test_taken() -> None:
    for task, keys in MEASURED.items():
        assert keys <= set(KEYS)
        require_measurable([gate(key) for key in keys], task)
    require_measurable([gate(key) for key in OF_TEXT], None)
    require_measurable([Gate("arc/acc", 0.5, True)], None)
    assert set(MEASURED) == set(get_args(Task))
