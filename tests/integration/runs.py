"""What a run leaves behind, and what must be true of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RAY_WARNINGS = [
    # Ray's own files, sockets and subprocesses, left to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray.*"),
]
"""Third-party warnings of a process that drives Ray; a module of such tests takes them as marks."""


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    root: Path
    printed: str
    report: Any

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The metrics, a dictionary a step."""
        return read_steps(self.root)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [step["loss"] for step in self.steps]


def read_steps(root: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def checkpoint_steps(root: Path) -> list[int]:
    """Steps of the whole checkpoints that a run keeps."""
    marks = sorted((root / "checkpoints").glob("step-*/raykd.json"))
    return [json.loads(mark.read_text())["step"] for mark in marks]


def assert_each_step_once(root: Path, num_steps: int, global_batch: int) -> None:
    """Steps 1 to N, and every row of the run in exactly one of them."""
    steps = read_steps(root)
    assert [step["step"] for step in steps] == list(range(1, num_steps + 1))
    assert [(s["row_start"], s["row_end"]) for s in steps] == [
        (i * global_batch, (i + 1) * global_batch) for i in range(num_steps)
    ]


Distil = Callable[..., Ran]
"""Runs a job in this process: `distil(job, resume=False, parts=Parts())`."""
