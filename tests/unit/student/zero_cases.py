"""What each step of a tiny student learns from, and the student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from dense_reference import make_scored, spec_of

from raykd.models.load import ModelSource
from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StudentSpec

VOCAB = 320
TOP_K = 8
STEPS = 3
# An epsilon this large makes AdamW's first steps follow the gradient and not just its sign.
OPTIMIZER = {"lr": 0.05, "warmup_steps": 0, "eps": 0.01, "weight_decay": 0.1, "schedule": "linear"}
CHANGES: dict[str, Any] = {
    "train.optimizer": OPTIMIZER,
    "train.gradient_clipping": 0.7,
    "train.micro_batch": 2,
    "loss.alpha": 0.3,
    "loss.temperature": 2.0,
}
# Micro-batches with many and with few learned tokens: a mean of means would show.
DOCUMENTS = [[[12, 9], [3], [2, 2], [16]], [[5], [20], [4, 4, 4], [7]], [[6], [6], [9], [2, 11]]]

Batch = tuple[pa.Table, torch.Tensor]


def make_batches(packed_rows: Callable[..., pa.Table]) -> list[Batch]:
    """What each step learns from: scored rows and the dense distribution behind them."""
    return [
        make_scored(packed_rows(documents, seed=i), VOCAB, TOP_K, (1.0, 2.0), seed=i)
        for i, documents in enumerate(DOCUMENTS)
    ]


def student_of(job: Any, source: Path, num_steps: int = STEPS) -> ZeroStudent:
    targets = spec_of(VOCAB, TOP_K, (1.0, 2.0))
    heldout = spec_of(VOCAB, TOP_K, (1.0,))
    return ZeroStudent(StudentSpec(job, ModelSource(str(source)), num_steps, targets, heldout))
