"""Numbers as a person reads them: durations, rates, shares, sizes."""

from __future__ import annotations

import math

NOT_MEASURED = "—"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units, such as `2m 10s`."""
    if seconds is None or not math.isfinite(seconds):
        return NOT_MEASURED
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart: `0.412`, `28.3`, `1,240`, `4.1e-05`."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if value == 0 or size >= 99.95:
        return f"{value:,.0f}"
    if size < 0.001:
        return f"{value:.1e}"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{min(decimals, 4)}f}"


def count(value: float | None) -> str:
    """A count in at most three digits and a letter: `690`, `12.3k`, `1.10B`."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{_three(value / limit)}{letter}"
    return f"{value:.0f}" if abs(value) >= 9.95 or value == int(value) else f"{value:.1f}"


def tokens_per_s(value: float | None) -> str:
    """A rate of tokens, such as `690 tok/s`."""
    return f"{count(value)} tok/s"


def share(value: float | None) -> str:
    """A share of one in per cent: `12 %`, `0.4 %`."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    percent = 100 * value
    return f"{percent:.1f} %" if 0.05 <= abs(percent) < 9.95 else f"{percent:.0f} %"


def size(num_bytes: float | None) -> str:
    """An amount of bytes in decimal units: `67.4 MB`."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return NOT_MEASURED
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit * 0.9995:
            return f"{_three(num_bytes / limit)} {unit}"
    return f"{num_bytes:.0f} B"


def _three(value: float) -> str:
    return f"{value:.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f}"
