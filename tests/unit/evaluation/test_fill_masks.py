"""Figures of masked language models, against the plain model asked text by text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForMaskedLM

from raykd import schema
from raykd.config.student import FromPretrained
from raykd.evaluation.fill_masks import measure_model, read_rows, teacher_scores
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.models.masking import Masking, batch_of
from raykd.soft_targets.codec import TopKHidden, TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.encoder_engine import EncoderEngine
from raykd.teacher.engine import EngineSpec, ShardPlace

VOCAB = 44
SPEC = EncoderSpec("masked", (), 2, masking=Masking(43, VOCAB))
CODEC = CodecSpec("top_k", VOCAB, top_k=VOCAB, values="fp32", fingerprint="x")
TEXTS = ["the wind moves over the river", "a stone", "no light and no wind"] * 3


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, save_bert: Callable[..., Path]
) -> list[ModelSource]:
    """A teacher and a student."""
    root, found = tmp_path_factory.mktemp("masked"), []
    for seed in (0, 1):
        base = ModelSource(str(save_bert(root / f"base{seed}", seed=seed)))
        init = FromPretrained(start="pretrained", model=base.path)
        found.append(write_encoder(init, base, base, SPEC, seed, root / f"{seed}", False))
    return found


@pytest.fixture
def rows(encoder_tokenizer: Any) -> pa.Table:
    columns: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for number, text in enumerate(TEXTS):
        ids = encoder_tokenizer(text)["input_ids"]
        padding = [0] * (12 - len(ids))
        columns["input_ids"].append(ids + padding)
        columns["position_ids"].append([*range(len(ids)), *padding])
        masked = (1, 2) if number % 2 else (2,)
        columns["loss_mask"].append([int(at + 1 in masked) for at in range(12)])
    return pa.table(columns, schema=schema.PREPARED)


def engine_of(source: ModelSource, spec: EncoderSpec, tokens: int = 30) -> EncoderEngine:
    engine = EngineSpec(source, "fp32", False, 1, tokens, 1, encoder=spec)
    return EncoderEngine(engine, ShardPlace(0, 1, "127.0.0.1", 0))


def asked_one_by_one(source: ModelSource, rows: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities [P, V] and last hidden states [P, H] of all masked tokens."""
    model = AutoModelForMaskedLM.from_pretrained(source.path).eval()
    logits, hidden = [], []
    for at in range(rows.num_rows):
        batch = batch_of(rows.slice(at, 1), SPEC.masking)
        length = int((batch.position_ids_BT > 0).sum()) + 1
        with torch.no_grad():
            out = model(batch.input_ids_BT[:, :length], output_hidden_states=True)
        logits.append(out.logits[0, batch.keep_M])
        hidden.append(out.hidden_states[-1][0, batch.keep_M])
    return torch.cat(logits).double().log_softmax(1), torch.cat(hidden)


def scored(engine: EncoderEngine, rows: pa.Table, codec: CodecSpec) -> pa.Table:
    answer = engine.score(rows, codec)
    assert answer is not None
    names = [*rows.column_names, *answer.column_names]
    return pa.table([*rows.columns, *answer.columns], names=names)


def test_the_teacher_scores_what_the_model_says(models: list[ModelSource], rows: pa.Table) -> None:
    spec = replace(SPEC, with_hidden=True, vector_width=32)
    codec = replace(CODEC, codec="top_k_hidden", top_k=7, hidden_size=32, hidden_values="fp32")
    found = decode(scored(engine_of(models[0], spec), rows, codec), codec)
    assert isinstance(found, TopKHidden)
    logprobs, hidden = asked_one_by_one(models[0], rows)
    torch.testing.assert_close(found.hidden_TD, hidden, rtol=1e-4, atol=1e-5)
    kept, ids = logprobs.topk(7, 1)
    assert torch.equal(found.top_k.ids_TK.long(), ids)
    torch.testing.assert_close(found.top_k.logprobs_TK.double(), kept, rtol=1e-4, atol=1e-5)
    labels = batch_of(rows, SPEC.masking).label_ids_M
    torch.testing.assert_close(
        found.top_k.label_logprobs_T.double(),
        logprobs.gather(1, labels[:, None])[:, 0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_figures_are_those_of_the_plain_models(models: list[ModelSource], rows: pa.Table) -> None:
    table = scored(engine_of(models[0], SPEC), rows, CODEC)
    measured = read_rows(table, SPEC, CODEC)
    assert isinstance(measured.teacher, TopKTargets)
    labels = batch_of(rows, SPEC.masking).label_ids_M
    log_p, log_q = (asked_one_by_one(source, rows)[0] for source in models)
    assert measured.num_positions == len(labels) == 13
    of_teacher = teacher_scores(measured)
    facts, found = measure_model("student", models[1], {"x": measured}, SPEC, "fp32", "cpu")
    assert of_teacher is not None
    for scores, logprobs in ((of_teacher, log_p), (found["x"], log_q)):
        nll = -logprobs[range(len(labels)), labels].mean().item()
        right = (logprobs.argmax(1) == labels).double().mean().item()
        assert scores.perplexity == pytest.approx(math.exp(nll), rel=1e-4)
        assert scores.metrics == pytest.approx(
            {"accuracy": right, "perplexity": math.exp(nll)}, rel=1e-4
        )
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean().item()
    assert found["x"].kl_to_teacher == pytest.approx(kl, rel=1e-4)
    agreed = (log_p.argmax(1) == log_q.argmax(1)).double().mean().item()
    assert found["x"].top1_agreement == pytest.approx(agreed)
    assert facts.parameters == sum(
        p.numel() for p in AutoModelForMaskedLM.from_pretrained(models[1].path).parameters()
    )


def test_without_a_teacher_the_text_is_measured(models: list[ModelSource], rows: pa.Table) -> None:
    measured = read_rows(rows, SPEC, None)
    assert teacher_scores(measured) is None
    _, found = measure_model("student", models[1], {"x": measured}, SPEC, "fp32", "cpu")
    assert found["x"].kl_to_teacher is None
    assert np.isfinite(found["x"].metrics["perplexity"])
