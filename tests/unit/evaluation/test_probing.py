"""What a probe says of codecs, against a dense computation on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd.evaluation import probing
from raykd.losses.spec import LossSpec
from raykd.models.batch import collate
from raykd.models.head import hidden_states, read_head, save_head
from raykd.soft_targets.codec import encode, to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.student.targets import to_targets

VOCAB = 320
CPU = torch.device("cpu")
SPEC = CodecSpec("hidden", VOCAB, hidden_size=32, hidden_values="fp32")
KL = LossSpec((("forward_kl", 1.0),))


@pytest.fixture
def probed(
    make_llama: Callable[..., Any], packed_rows: Callable[..., Any], tmp_path: Path
) -> tuple[probing.ProbedRows, torch.Tensor]:
    """Rows with a tiny teacher's hidden states; and its dense log probabilities [M, V]."""
    teacher = make_llama(1, num_hidden_layers=3)
    rows = packed_rows([[9, 5], [12], [3, 7]])
    encoded, logprobs = [], []
    with torch.no_grad():
        for i in range(rows.num_rows):
            batch = collate(rows.slice(i, 1))
            hidden = hidden_states(teacher, batch.input_ids_BT, batch.position_ids_BT)
            kept = hidden.flatten(0, 1)[batch.keep_M]
            encoded.append(encode(kept, None, None, SPEC))
            logprobs.append(teacher.lm_head(kept).double().log_softmax(1))
    columns = to_columns(encoded, SPEC)
    table = pa.table([*rows.columns, *columns.values()], names=[*rows.column_names, *columns])
    save_head(teacher, tmp_path / "head.safetensors", write=True)
    head = read_head(tmp_path / "head.safetensors", VOCAB, CPU)
    return probing.ProbedRows(table, SPEC, head), torch.cat(logprobs)


def decode_as_the_student(table: pa.Table, spec: CodecSpec, head: Any) -> Any:
    return to_targets(table, spec, 1.0, head, CPU).targets


def test_the_teacher_is_described_as_it_is(
    probed: tuple[probing.ProbedRows, torch.Tensor],
) -> None:
    rows, logprobs_MV = probed
    found = probing.teacher_found(rows)
    p_MV = logprobs_MV.exp()
    entropy_M = -(p_MV * logprobs_MV).sum(1).numpy()
    assert found.entropy_mean == pytest.approx(entropy_M.mean(), rel=1e-4)
    assert found.entropy_median == pytest.approx(np.median(entropy_M), rel=1e-4)
    assert found.entropy_p95 == pytest.approx(np.quantile(entropy_M, 0.95), rel=1e-4)
    assert found.top1_mass == pytest.approx(p_MV.amax(1).mean().item(), rel=1e-4)
    assert list(found.mass_by_k) == [8, 16, 32, 64, 128, 256]
    for k, (mean, low) in found.mass_by_k.items():
        mass_M = p_MV.topk(k, 1).values.sum(1).numpy()
        assert mean == pytest.approx(mass_M.mean(), rel=1e-4)
        assert low == pytest.approx(np.quantile(mass_M, 0.05), rel=1e-3)


def test_codecs_are_compared_with_every_logit(
    probed: tuple[probing.ProbedRows, torch.Tensor], make_llama: Callable[..., Any]
) -> None:
    rows, logprobs_MV = probed
    student = make_llama(2)
    tried = probing.candidates(SPEC)
    labels = [one.label for one in tried]
    assert labels == [
        *(f"top_k {k} int8" for k in (8, 16, 32, 64, 128, 256)),
        *("top_k 64 int6", "top_k 64 bf16", "top_k 64 fp32", "top_k 64 int8 no tail"),
        *("sampled 25", "sampled 50", "sampled 100", "hidden int8", "hidden bf16", "full bf16"),
    ]
    tokens, full_loss, codecs = probing.compare_codecs(
        rows, student, KL, tried, 10_000, decode_as_the_student, {"sampled": "not today"}
    )
    # the reference, by hand: KL and its gradient by the student's hidden states
    gradients, bucket_gradients, total = [], [], 0.0
    at = 0
    for i in range(rows.rows.num_rows):
        batch = collate(rows.rows.slice(i, 1))
        with torch.no_grad():
            hidden = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
        own = hidden.flatten(0, 1)[batch.keep_M].double().requires_grad_(True)
        log_q = (own @ student.lm_head.weight.double().T).log_softmax(1)
        log_p = logprobs_MV[at : at + len(own)]
        at += len(own)
        kl = (log_p.exp() * (log_p - log_q)).sum()
        total += kl.item()
        gradients.append(torch.autograd.grad(kl, own, retain_graph=True)[0])
        ids = log_p.topk(64, 1).indices
        p, q = log_p.exp().gather(1, ids), log_q.exp().gather(1, ids)
        p, q = (torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) for x in (p, q))
        buckets = (p * (p.log() - q.log())).sum()
        bucket_gradients.append(torch.autograd.grad(buckets, own)[0])
    assert tokens == len(logprobs_MV)
    assert full_loss == pytest.approx(total / tokens, rel=1e-4)
    exact, kept = torch.cat(gradients), torch.cat(bucket_gradients)
    by_label = {one.label: one for one in codecs}
    top_k = by_label["top_k 64 fp32"]
    cosine = (exact * kept).sum() / (exact.norm() * kept.norm())
    assert top_k.cosine == pytest.approx(cosine.item(), rel=1e-4)
    assert top_k.bias == pytest.approx(
        ((exact * kept).sum() / exact.norm() ** 2 - 1).item(), abs=1e-4
    )
    assert top_k.loss_gap < 0, "buckets see less"
    for label in ("hidden bf16", "full bf16"):
        assert by_label[label].cosine == pytest.approx(1.0, abs=1e-3)
        assert abs(by_label[label].bias) < 1e-2
    assert by_label["sampled 50"].refused == "not today"
    assert np.isnan(by_label["sampled 50"].cosine)
    assert by_label["sampled 50"].rest_bytes > 0
    assert by_label["top_k 8 int8"].wire_bytes < by_label["top_k 64 int8"].wire_bytes
    assert by_label["full bf16"].wire_bytes == pytest.approx(2 * VOCAB, rel=0.1)


def test_no_more_rows_than_asked_and_at_least_one(
    probed: tuple[probing.ProbedRows, torch.Tensor], make_llama: Callable[..., Any]
) -> None:
    rows, _ = probed
    first = len(collate(rows.rows.slice(0, 1)).keep_M)
    tokens, _, _ = probing.compare_codecs(
        rows, make_llama(2), KL, probing.candidates(SPEC)[:1], 1, decode_as_the_student, {}
    )
    assert tokens == first


def test_the_students_rate_counts_all_tokens(
    packed_rows: Callable[..., Any], make_llama: Callable[..., Any]
) -> None:
    model = make_llama(2)
    batch = collate(packed_rows([[9], [12]]))
    assert probing.student_tokens_per_s(model, batch, VOCAB, seconds=0.05) > 0
    assert all(p.grad is None for p in model.parameters())
