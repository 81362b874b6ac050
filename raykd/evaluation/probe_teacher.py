"""What a probe has of the teacher: hidden states and a head, hence every logit.

M learned tokens, T of them at a time, D hidden size of the teacher, V vocabulary, K ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from raykd.evaluation.probe_candidates import KS
from raykd.evaluation.probe_data import TeacherFound
from raykd.models.head import Head
from raykd.soft_targets.codec import HiddenStates, decode
from raykd.soft_targets.spec import CodecSpec

CHUNK_TOKENS: Final = 256


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Rows with the teacher's last hidden states, and its head."""

    rows: pa.Table
    spec: CodecSpec
    """Codec `hidden`, as the rows carry it."""
    head: Head


def teacher_found(probed: ProbedRows) -> TeacherFound:
    """Entropy, and the mass that the likeliest ids catch, over all learned tokens."""
    ks = [k for k in KS if k <= probed.spec.vocab_size]
    entropies, masses = [], []
    for _, logits_TV in teacher_logits(probed, probed.rows):
        logprobs_TV = logits_TV.log_softmax(1)
        probabilities_TV = logprobs_TV.exp()
        entropies.append(-(probabilities_TV * logprobs_TV.clamp(min=-1e4)).sum(1))
        top_TK = probabilities_TV.topk(ks[-1], 1).values.cumsum(1)
        masses.append(top_TK[:, [0, *(k - 1 for k in ks)]])
    entropy_M = torch.cat(entropies).cpu().double().numpy()
    mass_MK = torch.cat(masses).cpu().double().numpy()
    return TeacherFound(
        entropy_mean=float(entropy_M.mean()),
        entropy_median=float(np.median(entropy_M)),
        entropy_p95=float(np.quantile(entropy_M, 0.95)),
        top1_mass=float(mass_MK[:, 0].mean()),
        mass_by_k={
            k: (float(mass_MK[:, i + 1].mean()), float(np.quantile(mass_MK[:, i + 1], 0.05)))
            for i, k in enumerate(ks)
        },
    )


def teacher_logits(probed: ProbedRows, rows: pa.Table) -> Iterator[tuple[slice, torch.Tensor]]:
    """Places among the learned tokens of `rows`, and the teacher's logits [T, V] there."""
    weight_VD, bias_V = probed.head.weight_VD, probed.head.bias_V
    hidden_MD = hidden_of(probed, rows)
    for at in range(0, len(hidden_MD), CHUNK_TOKENS):
        piece = slice(at, min(at + CHUNK_TOKENS, len(hidden_MD)))
        raw_TV = torch.nn.functional.linear(hidden_MD[piece].to(weight_VD.dtype), weight_VD, bias_V)
        yield piece, probed.head.after(raw_TV).float()


def hidden_of(probed: ProbedRows, rows: pa.Table) -> torch.Tensor:
    """The teacher's last hidden states [M, D] at the learned tokens of `rows`."""
    found = decode(rows, probed.spec, probed.head.weight_VD.device)
    assert isinstance(found, HiddenStates)
    return found.hidden_TD
