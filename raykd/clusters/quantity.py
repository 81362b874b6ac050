"""Kubernetes quantities: `500m`, `64Gi`, `1e3`."""

from __future__ import annotations

import re
from decimal import Decimal

SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{name: Decimal(1000) ** i for i, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{f"{name}i": Decimal(1024) ** i for i, name in enumerate(("K", "M", "G", "T", "P", "E"), 1)},
}


def quantity(text: str | int | float) -> float:
    """A quantity as a number.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in SUFFIXES:
        raise ValueError(f"{text!r} is no quantity such as 4, 500m or 64Gi")
    return float(Decimal(match[1]) * SUFFIXES[match[2]])
