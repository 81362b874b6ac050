"""Metrics of made-up steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raykd.telemetry.metrics import StepMetrics

STEP = StepMetrics(
    step=1,
    epoch=0.25,
    row_start=0,
    row_end=4,
    tokens=100,
    tokens_seen=128,
    loss=2.5,
    divergence=1.5,
    cross_entropy=3.5,
    lr=1e-4,
    grad_norm=0.7,
    seconds=2.0,
    wait_s=0.5,
    teacher_s=1.0,
    time=1_000.0,
)


def step(number: int, **changed: Any) -> StepMetrics:
    rows = {"row_start": 4 * (number - 1), "row_end": 4 * number}
    return replace(STEP, step=number, time=1_000.0 + number, **{**rows, **changed})
