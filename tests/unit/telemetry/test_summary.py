"""Rates and shares against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raykd.telemetry.metrics import StepMetrics
from raykd.telemetry.summary import eta_s, summarize, summarize_recent, time_series


def step(number: int, **changed: Any) -> StepMetrics:
    metrics = StepMetrics(
        step=number,
        epoch=0.0,
        row_start=4 * (number - 1),
        row_end=4 * number,
        tokens=100,
        tokens_seen=200,
        loss=2.0,
        divergence=1.0,
        cross_entropy=3.0,
        lr=1e-4,
        grad_norm=1.0,
        seconds=2.0,
        wait_s=0.5,
        teacher_s=1.0,
        time=0.0,
    )
    return replace(metrics, **changed)


def test_by_hand() -> None:
    steps = [step(1, seconds=6.0, wait_s=3.0, teacher_s=4.0), step(2), step(3, tokens_seen=100)]
    total = summarize(steps, replicas=2)
    assert (total.num_steps, total.num_rows) == (3, 12)
    assert (total.tokens, total.tokens_seen, total.seconds) == (300, 500, 10.0)
    assert total.tokens_per_s == 50.0
    assert total.wait_share == pytest.approx(0.4)
    # 500 tokens in 6 busy seconds of one replica; two of them do twice that.
    assert total.teacher_tokens_per_s == pytest.approx(500 / 6 * 2)
    assert total.teacher_busy_share == pytest.approx(6 / (2 * 10))
    assert total.teacher_held_back_share == pytest.approx(0.7)


def test_kept_targets_do_not_make_the_teacher_faster() -> None:
    total = summarize([step(1), step(2, teacher_s=0.0)], replicas=1)
    assert total.teacher_tokens_per_s == 200.0
    assert total.teacher_busy_share == 0.25


def test_teacher_never_asked() -> None:
    for replicas in (0, 1):
        total = summarize([step(1, teacher_s=0.0, divergence=None)], replicas)
        assert total.teacher_tokens_per_s is None
        assert total.teacher_busy_share is None
        assert total.teacher_held_back_share is None


def test_teacher_that_worked_ahead_is_busy_all_the_time() -> None:
    total = summarize([step(1, teacher_s=5.0)], replicas=1)
    assert (total.teacher_busy_share, total.teacher_held_back_share) == (1.0, 0.0)


def test_nothing() -> None:
    total = summarize([], replicas=1)
    assert total.num_steps == 0
    assert total.tokens_per_s is None
    assert total.wait_share is None
    assert time_series([], replicas=1) == []
    assert eta_s([], 10) is None


def test_recent() -> None:
    steps = [step(n, seconds=100.0 if n <= 5 else 1.0) for n in range(1, 11)]
    assert summarize_recent(steps, 1, window=5).seconds == 5.0


def test_eta() -> None:
    assert eta_s([step(1, seconds=30.0)], total_steps=3) == 60.0
    # The first step fills the pipeline; the pace is that of the others.
    steps = [step(1, seconds=30.0), step(2), step(3, seconds=4.0)]
    assert eta_s(steps, total_steps=13) == 30.0
    assert eta_s(steps, total_steps=3) == 0.0
    assert eta_s(steps, total_steps=2) == 0.0


def test_series_by_hand() -> None:
    steps = [
        step(1, loss=4.0, tokens=300),
        step(2, loss=2.0, tokens=100),
        step(3, loss=1.0),
        step(4, loss=1.0, divergence=None),
    ]
    first, second = time_series(steps, replicas=1, max_points=2)
    assert (first.step, first.elapsed_s, second.step, second.elapsed_s) == (2, 4.0, 4, 8.0)
    assert first.loss == pytest.approx((4.0 * 300 + 2.0 * 100) / 400)
    assert second.divergence == 1.0
    assert first.wait_share == 0.25


def test_series_without_learned_tokens() -> None:
    assert time_series([step(1, tokens=0)], replicas=1)[0].loss == 2.0


@pytest.mark.parametrize("num_steps", [1, 59, 60, 61, 100, 1234])
def test_series_keeps_every_step_once(num_steps: int) -> None:
    steps = [step(n) for n in range(1, num_steps + 1)]
    points = time_series(steps, replicas=1)
    assert len(points) == min(60, num_steps)
    assert points[-1].step == num_steps
    assert points[-1].elapsed_s == pytest.approx(2.0 * num_steps)
    assert [p.step for p in points] == sorted({p.step for p in points})
