"""Rows that no teacher has scored: perplexity, and nothing that would need its word."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd.evaluation import compare
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec


def plain_perplexity(directory: Path, rows: pa.Table) -> tuple[int, float]:
    """Document by document, by transformers' own logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    nll, tokens = 0.0, 0
    for row in rows.to_pylist():
        ids, positions = row["input_ids"], row["position_ids"]
        starts = [i for i, position in enumerate(positions) if position == 0] + [len(ids)]
        for first, last in itertools.pairwise(starts):
            with torch.no_grad():
                logits = model(torch.tensor([ids[first:last]])).logits[0]
            logprobs = logits.log_softmax(-1)
            for at in range(first, last - 1):
                if row["loss_mask"][at]:
                    nll -= float(logprobs[at - first, ids[at + 1]])
                    tokens += 1
    return tokens, float(torch.tensor(nll / tokens).exp())


def test_perplexity_alone(student_dir: Path, packed_rows: Callable[..., Any]) -> None:
    rows = packed_rows([[9, 6], [12], [5, 3, 4]])
    spec = CodecSpec(codec="top_k", vocab_size=320, top_k=4)
    source = ModelSource(str(student_dir))
    _, scores = compare.measure_model("student", source, {"heldout": rows}, spec, "fp32", "cpu")
    found = compare.set_scores(rows, 4, {"student": scores["heldout"]})
    tokens, perplexity = plain_perplexity(student_dir, rows)
    student = found.models["student"]
    assert found.tokens == tokens
    assert student.perplexity == pytest.approx(perplexity, rel=1e-4)
    assert (student.kl_to_teacher, student.top1_agreement) == (None, None)
    assert "teacher" not in found.models
