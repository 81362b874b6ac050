"""Distillation the plain way: one document at a time, the whole vocabulary, float64 losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch
from torch.nn.functional import log_softmax

from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec


def spec_of(vocab_size: int, top_k: int, temperatures: tuple[float, ...]) -> CodecSpec:
    """Soft targets kept in full width."""
    return CodecSpec("top_k", vocab_size, temperatures, top_k=top_k, values="fp32")


def make_scored(
    rows: pa.Table, vocab_size: int, top_k: int, temperatures: tuple[float, ...], seed: int
) -> tuple[pa.Table, torch.Tensor]:
    """Rows with the soft targets of random logits, and the dense logprobs [M, V] they are of."""
    spec = spec_of(vocab_size, top_k, temperatures)
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Any]] = {name: [] for name in target_schema(spec).names}
    every = []
    for row in rows.to_pylist():
        learned = [i for i, flag in enumerate(row["loss_mask"]) if flag]
        logits_MV = 2 * torch.randn(len(learned), vocab_size, generator=generator).double()
        logprobs_MV = log_softmax(logits_MV, dim=-1)
        order_MV = logprobs_MV.argsort(dim=-1, descending=True)
        kept_MK = order_MV[:, :top_k]
        left = logprobs_MV.gather(1, order_MV[:, top_k:])
        tails = [torch.logsumexp(left / t, 1) for t in temperatures]
        labels = torch.tensor([row["input_ids"][i + 1] for i in learned], dtype=torch.int64)
        columns["target_ids"].append(kept_MK.flatten().tolist())
        columns["target_logprobs"].append(logprobs_MV.gather(1, kept_MK).flatten().tolist())
        columns["target_log_tail"].append(torch.stack(tails, 1).flatten().tolist())
        columns["label_logprobs"].append(logprobs_MV.gather(1, labels[:, None])[:, 0].tolist())
        columns["target_stamp"].append(spec.stamp)
        every.append(logprobs_MV)
    targets = pa.table(columns, schema=target_schema(spec))
    table = pa.table(
        [*rows.columns, *targets.columns], names=[*rows.column_names, *targets.column_names]
    )
    return table, torch.cat(every)


def own_logits(model: Any, rows: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's own logits [M, V] in float64 of each document alone; labels [M]."""
    logits, labels = [], []
    for row in rows.to_pylist():
        ids, mask = row["input_ids"], row["loss_mask"]
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            out = model(input_ids=torch.tensor([ids[start:end]])).logits[0].double()
            for i in range(start, end):
                if mask[i]:
                    logits.append(out[i - start])
                    labels.append(ids[i + 1])
    return torch.stack(logits), torch.tensor(labels)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Sum over rows of KL(p, q)."""
    return (p * (p.log() - q.log())).sum()


def jsd(p: torch.Tensor, q: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """Sum over rows of the generalized divergence with `beta` of p in the mixture."""
    mixture = beta * p + (1 - beta) * q
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jsd": jsd,
}


def in_buckets(probabilities_MV: torch.Tensor, kept_MK: torch.Tensor) -> torch.Tensor:
    """[M, K + 1]: the kept ids and the rest as one."""
    kept = probabilities_MV.gather(1, kept_MK)
    return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], dim=1)


def dense_sums(
    model: Any,
    rows: pa.Table,
    teacher_logprobs_MV: torch.Tensor,
    *,
    divergence: str,
    temperature: float,
    alpha: float,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, divergence, cross-entropy: sums over learned tokens, with gradient to the model."""
    logits_MV, labels_M = own_logits(model, rows)
    kept_MK = teacher_logprobs_MV.topk(top_k, dim=-1).indices
    p = in_buckets(torch.softmax(teacher_logprobs_MV / temperature, -1), kept_MK)
    q = in_buckets(torch.softmax(logits_MV / temperature, -1), kept_MK)
    distance = temperature**2 * DIVERGENCES[divergence](p, q)
    cross_entropy = -log_softmax(logits_MV, -1).gather(1, labels_M[:, None]).sum()
    return (1 - alpha) * distance + alpha * cross_entropy, distance, cross_entropy


def plain_training(
    model: Any, batches: list[tuple[pa.Table, torch.Tensor]], lrs: list[float], job: Any
) -> list[dict[str, float]]:
    """A single-process loop over whole batches; changes the model, returns loss and norm a step."""
    settings = job.train.optimizer
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=settings.betas,
        eps=settings.eps,
    )
    told = []
    for (rows, teacher_logprobs_MV), lr in zip(batches, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        total, _, _ = dense_sums(
            model,
            rows,
            teacher_logprobs_MV,
            divergence=job.loss.divergence,
            temperature=job.loss.temperature,
            alpha=job.loss.alpha,
            top_k=job.soft_targets.top_k,
        )
        loss = total / len(teacher_logprobs_MV)
        optimizer.zero_grad()
        loss.backward()
        most = job.train.gradient_clipping or math.inf
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        optimizer.step()
        told.append({"loss": loss.item(), "norm": norm.item()})
    return told
