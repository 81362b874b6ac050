"""What a probe says of codecs, against a dense computation on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from probed_cases import CPU, SPEC, VOCAB, make_probed

from raykd.evaluation.probe_candidates import candidates
from raykd.evaluation.probe_teacher import ProbedRows
from raykd.evaluation.probing import compare_codecs
from raykd.losses.spec import LossSpec
from raykd.models.batch import collate
from raykd.models.head import hidden_states
from raykd.soft_targets.spec import CodecSpec
from raykd.student.targets import to_targets

KL = LossSpec((("forward_kl", 1.0),))


@pytest.fixture
def probed(
    make_llama: Callable[..., Any], packed_rows: Callable[..., Any], tmp_path: Path
) -> tuple[ProbedRows, torch.Tensor]:
    return make_probed(make_llama, packed_rows, tmp_path)


def decode_as_the_student(table: pa.Table, spec: CodecSpec, head: Any) -> Any:
    return to_targets(table, spec, 1.0, head, CPU).targets


def test_codecs_are_compared_with_every_logit(
    probed: tuple[ProbedRows, torch.Tensor], make_llama: Callable[..., Any]
) -> None:
    rows, logprobs_MV = probed
    student = make_llama(2)
    tried = candidates(SPEC)
    tokens, full_loss, codecs = compare_codecs(
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
    probed: tuple[ProbedRows, torch.Tensor], make_llama: Callable[..., Any]
) -> None:
    rows, _ = probed
    first = len(collate(rows.rows.slice(0, 1)).keep_M)
    tokens, _, _ = compare_codecs(
        rows, make_llama(2), KL, candidates(SPEC)[:1], 1, decode_as_the_student, {}
    )
    assert tokens == first
