"""The teacher's replicas over time, as a figure of the report."""

from __future__ import annotations

import itertools

from raykd.evaluation.report_figures import replicas_figure
from raykd.telemetry.replicas import ReplicaSample, fewer


def sample(time: float, running: int) -> ReplicaSample:
    return ReplicaSample(time=time, running=running, wanted=running + 1, most=4, queued=2 * running)


def test_replicas_and_queue_over_time() -> None:
    figure = replicas_figure([sample(1000.0 + 5 * i, i % 3) for i in range(1000)])
    assert [line.label for line in figure.lines] == [
        "replicas running",
        "replicas wanted",
        "requests queued",
    ]
    assert all(len(line.points) == 1000 for line in figure.lines)
    assert figure.lines[0].points[0] == (0.0, 0.0)
    assert "time, minutes" in figure.plot or "time, hours" in figure.plot
    assert "<svg" in figure.plot


def test_the_report_keeps_few_samples_evenly_spread() -> None:
    samples = [sample(float(i), 1) for i in range(1001)]
    kept = fewer(samples, most=200)
    assert len(kept) <= 200
    assert kept[0] == samples[0]
    assert {b.time - a.time for a, b in itertools.pairwise(kept)} == {6.0}
    assert fewer(samples[:7], most=200) == samples[:7]


def test_without_samples_it_says_so() -> None:
    figure = replicas_figure([])
    assert figure.lines == []
    assert figure.missing == "No teacher was watched."
