"""Tasks by lm-eval: on a task of our own where the package is, the rest everywhere."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.errors import JobError
from raykd.evaluation import harness
from raykd.evaluation.harness import Harness

NEEDS_PACKAGE = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the package lm-eval is not installed"
)
QUESTIONS = [
    ("the river", [" moves", " stone", " light"], 0),
    ("the old stone", [" keeps", " gives"], 1),
    ("a teacher", [" sees", " learns", " and"], 2),
    ("every small wind", [" over", " under"], 0),
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    lines = [{"q": q, "choices": choices, "answer": answer} for q, choices, answer in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rivers.yaml").write_text(
        f"""
task: rivers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "q.jsonl"}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    return tmp_path


@NEEDS_PACKAGE
@pytest.mark.filterwarnings("ignore")
def test_a_tasks_accuracy_is_counted_right(
    tasks: Path, make_llama: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    model = make_llama(2)
    asked = Harness(("rivers",), str(tasks))
    harness.require_tasks(asked)
    found = harness.run_tasks(model, tiny_tokenizer, asked, 2)
    right = 0
    for question, choices, answer in QUESTIONS:
        scores = []
        for choice in choices:
            read = tiny_tokenizer(question)["input_ids"]
            whole = tiny_tokenizer(question + choice)["input_ids"]
            with torch.no_grad():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(1)
            scores.append(sum(logprobs[i - 1, whole[i]] for i in range(len(read), len(whole))))
        right += max(range(len(scores)), key=lambda i: float(scores[i])) == answer
    assert found == {("rivers", "acc"): pytest.approx(right / len(QUESTIONS))}


@NEEDS_PACKAGE
@pytest.mark.filterwarnings("ignore")
def test_unknown_tasks_are_named(tasks: Path) -> None:
    with pytest.raises(JobError, match="--lm-eval river: no such task; near to it: rivers"):
        harness.require_tasks(Harness(("river",), str(tasks)))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(JobError, match="pip install lm-eval"):
        harness.require_tasks(Harness(("arc_easy",)))


def test_what_is_no_metric_is_left_out() -> None:
    assert harness._is_metric("acc,none", 0.5)
    assert not harness._is_metric("acc_stderr,none", 0.1)
    assert not harness._is_metric("acc_stderr,none", "N/A")
    assert not harness._is_metric("sample_len", 3)
    assert harness._metric("exact_match,strict-match") == "exact_match,strict-match"


def test_a_line_a_metric() -> None:
    lines = harness.metrics_of(
        {"student": {("a", "acc"): 0.5}, "teacher": {("a", "acc"): 0.7, ("b", "f1"): 0.1}}
    )
    assert [(one.task, one.metric, one.scores) for one in lines] == [
        ("a", "acc", {"student": 0.5, "teacher": 0.7}),
        ("b", "f1", {"teacher": 0.1}),
    ]
