"""Expected calibration error against a plain loop."""

from __future__ import annotations

import random

import numpy as np
import pytest

from raykd.evaluation.calibration import NUM_BINS, calibration_of


def reference_ece(pairs: list[tuple[float, bool]]) -> float:
    """Guo et al. 2017, equation 3, one token at a time."""
    total = 0.0
    for i in range(NUM_BINS):
        low, high = i / NUM_BINS, (i + 1) / NUM_BINS
        inside = [(p, c) for p, c in pairs if low < p <= high or (i == 0 and p == 0.0)]
        if inside:
            sure = sum(p for p, _ in inside) / len(inside)
            right = sum(c for _, c in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(right - sure)
    return total


def test_ece_is_the_papers() -> None:
    draw = random.Random(1)
    pairs = [(draw.random(), draw.random() < 0.6) for _ in range(700)]
    pairs += [(0.0, False), (1.0, True)]
    found = calibration_of(np.array([p for p, _ in pairs]), np.array([c for _, c in pairs]))
    assert found.ece == pytest.approx(reference_ece(pairs), abs=1e-12)
    assert found.accuracy == pytest.approx(sum(c for _, c in pairs) / len(pairs))
    assert found.confidence == pytest.approx(sum(p for p, _ in pairs) / len(pairs))
    assert sum(one.tokens for one in found.bins) == len(pairs)


def test_bins_by_hand() -> None:
    found = calibration_of(np.array([0.9, 0.9, 0.9, 0.1]), np.array([True, True, False, False]))
    high, low = found.bins[13], found.bins[1]
    assert (high.tokens, high.confidence, high.accuracy) == (
        3,
        pytest.approx(0.9),
        pytest.approx(2 / 3),
    )
    assert (low.tokens, low.accuracy) == (1, 0.0)
    assert found.bins[5].confidence is None
    assert found.ece == pytest.approx((3 * (0.9 - 2 / 3) + 0.1) / 4)


def test_an_edge_belongs_to_the_bin_below() -> None:
    assert 0.6 * NUM_BINS == 9.0
    assert calibration_of(np.array([0.6]), np.array([True])).bins[8].tokens == 1


def test_as_right_as_sure_is_zero() -> None:
    sure = np.repeat([0.25, 0.5, 0.75], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert calibration_of(sure, right).ece == pytest.approx(0.0, abs=1e-12)


def test_no_token_is_nothing() -> None:
    assert calibration_of(np.zeros(0), np.zeros(0, dtype=bool)).ece == 0.0
