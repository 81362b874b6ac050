"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of `raykd check`."""

    ok: bool
    subject: str
    text: str
    hint: bool = False
    """Nothing is wrong, but something could be better."""
