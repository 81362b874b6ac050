"""What bare encoders cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from label_cases import measured, texts_of

from raykd.evaluation import label_costs
from raykd.evaluation.inspecting import Subject
from raykd.evaluation.inspecting_labels import measure_labels
from raykd.evaluation.kept import kept_of_metrics
from raykd.models.encoder import EncoderSpec, encoder_outputs
from raykd.models.load import ModelSource


@pytest.fixture
def bert(tmp_path: Path, save_bert: Callable[..., Path]) -> Any:
    from transformers import AutoModelForTokenClassification

    directory = save_bert(tmp_path / "bert")
    return AutoModelForTokenClassification.from_pretrained(directory, num_labels=3).eval()


def test_costs_at_both_batch_sizes(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, int]] = []

    def spy(model: Any, batch: Any, spec: EncoderSpec, through: Any) -> Any:
        assert not spec.with_hidden, "what only training reads is not timed"
        found = encoder_outputs(model, batch, spec, through)
        seen.append((tuple(batch.input_ids_BT.shape), len(found.outputs_MC)))
        return found

    monkeypatch.setattr(label_costs, "encoder_outputs", spy)
    spec = EncoderSpec("tokens", ("a", "b", "c"), 2, with_hidden=True, vector_width=32)
    texts = (torch.arange(80) % 12 + 3).reshape(8, 10)
    one, many = label_costs.label_costs(bert, None, texts, spec)
    assert (one.batch, many.batch, many.prompt_tokens, many.new_tokens) == (1, 8, 10, 0)
    assert set(seen) == {((1, 10), 10), ((8, 10), 80)}, "an output for every token"
    assert many.written_tokens_per_s is None
    assert many.read_prompts_per_s == pytest.approx(many.read_tokens_per_s / 10)
    weights = sum(p.numel() * p.element_size() for p in bert.parameters())
    # At least a batch's states of one layer, at most everything ever made.
    assert weights + 80 * 32 * 4 < many.peak_bytes < weights + 20 * 2**20
    assert weights < one.peak_bytes < many.peak_bytes


def test_the_ratio_is_of_a_text(bert: Any) -> None:
    spec = EncoderSpec("tokens", ("a", "b", "c"), 2)
    costs = label_costs.label_costs(bert, None, torch.arange(3, 13)[None], spec)
    twice = [
        one.model_copy(update={"read_tokens_per_s": 2 * one.read_tokens_per_s}) for one in costs
    ]
    assert kept_of_metrics({}, {"teacher": costs, "student": twice}).cost_ratio == 0.5
    assert kept_of_metrics({}, {"student": twice}).cost_ratio is None


def test_a_teacher_that_cannot_be_loaded_is_a_note(
    tmp_path: Path, save_bert: Callable[..., Path]
) -> None:
    rows = measured("embedding", texts_of(3), labels=())
    student = Subject("student", ModelSource(str(save_bert(tmp_path / "bert"))), "fp32")
    gone = Subject("teacher", ModelSource(str(tmp_path / "gone")), "fp32")
    seen = measure_labels(rows, [student], gone, "cpu", 2)
    assert set(seen.costs) == {"student"}
    assert [one.prompt_tokens for one in seen.costs["student"]] == [6, 6]
    assert "could not be loaded" in seen.notes[0]
    assert measure_labels(rows, [student], gone, "cpu", 0).costs == {}
