"""The module's loss over packed rows against a dense computation of each document alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense_reference import dense_sums, make_scored, own_logits, spec_of

from raykd.models.batch import collate
from raykd.student.module import DistillationModule
from raykd.student.targets import TargetReader

VOCAB, TOP_K = 320, 8
DOCUMENTS = [[5, 7], [12], [3, 3, 9], [4]]


def loss_of(module: DistillationModule, rows: Any, job: Any, top_k: int = TOP_K) -> Any:
    """The module's loss over rows as they arrive."""
    spec = spec_of(VOCAB, top_k, job.temperatures)
    read = TargetReader(spec, job.loss.temperature, None, torch.device("cpu"))
    return module(collate(rows), read(rows).targets, None)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (2.0, 0.4), (0.5, 0.9)])
def test_packed_rows(
    divergence: str,
    temperature: float,
    alpha: float,
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
) -> None:
    job = make_job(
        {"loss.divergence": divergence, "loss.temperature": temperature, "loss.alpha": alpha}
    )
    rows, dense = make_scored(packed_rows(DOCUMENTS), VOCAB, TOP_K, job.temperatures, seed=1)
    model, twin = make_llama(3), make_llama(3)
    module = DistillationModule(model, job, VOCAB)
    parts = loss_of(module, rows, job)
    total, distance, cross_entropy = dense_sums(
        twin,
        rows,
        dense,
        divergence=divergence,
        temperature=temperature,
        alpha=alpha,
        top_k=TOP_K,
    )
    assert parts.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert parts.divergence.item() == pytest.approx(distance.item(), rel=1e-5)
    assert parts.cross_entropy.item() == pytest.approx(cross_entropy.item(), rel=1e-5)
    parts.total.backward()
    total.backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, atol=1e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_all_ids_kept_is_the_dense_divergence(
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
) -> None:
    """Against torch's own kl_div over the whole vocabulary."""
    job = make_job({"soft_targets.top_k": VOCAB})
    rows, dense = make_scored(packed_rows([[9], [4, 5]]), VOCAB, VOCAB, (1.0,), seed=2)
    model = make_llama(3)
    module = DistillationModule(model, job, VOCAB)
    with torch.no_grad():
        parts = loss_of(module, rows, job, top_k=VOCAB)
        own = torch.log_softmax(own_logits(model, rows)[0], -1)
    expected = torch.nn.functional.kl_div(own, dense, log_target=True, reduction="sum")
    assert parts.divergence.item() == pytest.approx(expected.item(), rel=1e-4)


def test_padded_rows_of_the_students_head_take_no_part(
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
) -> None:
    job = make_job()
    rows, _ = make_scored(packed_rows(DOCUMENTS), VOCAB, TOP_K, (1.0,), seed=1)
    model = make_llama(3, vocab_size=336)
    module = DistillationModule(model, job, VOCAB)
    before = loss_of(module, rows, job).total
    before.backward()
    assert model.lm_head.weight.grad[VOCAB:].abs().max() == 0
    with torch.no_grad():
        model.lm_head.weight[VOCAB:] += 5.0
    assert loss_of(module, rows, job).total.item() == before.item()
