"""One line of `raykd check --cluster`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "fix this", "consider", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """What was found in a cluster file.

    Attributes:
        level: `fix this` fails the check; `consider` is advice; `unchecked` says what could not
            be looked at.
        subject: What it is about.
        text: What is so, and what to do.
        line: The file's line, from 1; None where it is about the whole.
    """

    level: Level
    subject: str
    text: str
    line: int | None = None


def fix(subject: str, text: str, line: int | None = None) -> Finding:
    """Something that has to change."""
    return Finding("fix this", subject, text, line)


def consider(subject: str, text: str, line: int | None = None) -> Finding:
    """Something that may be meant."""
    return Finding("consider", subject, text, line)
