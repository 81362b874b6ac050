"""Numbers as people read them."""

from __future__ import annotations


def gib(size: float) -> str:
    """Bytes in GiB, or MiB where that is little."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"


def rate(size: float) -> str:
    """Bytes a second."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit:
            return f"{size / unit:,.1f} {name}/s"
    return f"{size:.0f} B/s"


def short(number: float) -> str:
    """A large number with three digits or so: 1.72B, 135M."""
    for name, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def percent(share: float) -> str:
    """A share of 1."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.0%}" if share >= 0.01 or share == 0 else f"{share:.1%}"
