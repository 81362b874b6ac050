"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from raykd.telemetry.units import count, duration, number, share, size, tokens_per_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (3.21, "3.2s"),
        (9.97, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (130, "2m 10s"),
        (3599.6, "1h 00m"),
        (3840, "1h 04m"),
        (90000, "1d 01h"),
        (None, "—"),
        (math.inf, "—"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.4123, "0.412"),
        (0.04123, "0.0412"),
        (0.000412, "4.1e-04"),
        (1.834, "1.83"),
        (28.34, "28.3"),
        (99.96, "100"),
        (8421.4, "8,421"),
        (-1.5, "-1.50"),
        (None, "—"),
        (math.nan, "—"),
        (math.inf, "∞"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (5, "5"), (6.4, "6.4"), (690.2, "690"), (999.7, "1.00k"), (12340, "12.3k"),
     (134515008, "135M"), (1.1e9, "1.10B"), (None, "—")],
)  # fmt: skip
def test_count(value: float | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (0.0004, "0 %"), (0.004, "0.4 %"), (0.12, "12 %"), (1, "100 %"), (None, "—")],
)
def test_share(value: float | None, text: str) -> None:
    assert share(value) == text


def test_size_and_rate() -> None:
    assert [size(n) for n in (12, 1200, 67.4e6, 2.5e9, None)] == [
        "12 B",
        "1.20 kB",
        "67.4 MB",
        "2.50 GB",
        "—",
    ]
    assert tokens_per_s(690) == "690 tok/s"
