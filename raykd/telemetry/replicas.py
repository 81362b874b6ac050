"""Replicas and queue of the teacher over time: one line of `logs/teacher.jsonl` a look."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from raykd.errors import RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSample:
    """The teacher at one time."""

    time: float
    """Unix seconds."""
    running: int
    """Replicas that answer."""
    wanted: int
    """Replicas that run or are being started."""
    most: int
    """Replicas that there may be."""
    queued: int
    """Requests on their way, less one at work for each running replica."""

    def to_json(self) -> str:
        """The sample as one line, without its line end."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Parse one line.

        Raises:
            ValueError: It is not JSON, or its keys are others.
        """
        tree = json.loads(line)
        names = {field.name for field in fields(cls)}
        if not isinstance(tree, dict) or tree.keys() != names:
            raise ValueError(f"a sample has the keys {', '.join(sorted(names))}")
        return cls(**tree)


def append_sample(file: Path, sample: ReplicaSample) -> None:
    """Add one line; its directory exists."""
    with file.open("a", encoding="utf-8") as log:
        log.write(sample.to_json() + "\n")


def read_samples(file: Path) -> list[ReplicaSample]:
    """All samples, in order; none where there is no file. A torn last line is left out.

    Raises:
        RunError: A whole line is malformed; the message has its number.
    """
    if not file.is_file():
        return []
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            samples.append(ReplicaSample.from_json(line))
        except ValueError as error:
            raise RunError(f"{file}:{number}: {error}; remove the line") from None
    return samples


def fewer(samples: Sequence[ReplicaSample], most: int = 200) -> list[ReplicaSample]:
    """At most so many of them, evenly spread."""
    every = -(-len(samples) // most) or 1
    return list(samples[::every])


def elapsed_s(samples: Sequence[ReplicaSample]) -> list[float]:
    """Seconds from the first sample to each.

    Where a run went on from a machine whose clock is behind, no time has passed.
    """
    gaps = [max(0.0, b.time - a.time) for a, b in itertools.pairwise(samples)]
    return list(itertools.accumulate(gaps, initial=0.0)) if samples else []


def mean_running(samples: Sequence[ReplicaSample]) -> float | None:
    """Replicas that ran, on average over the time; None without samples.

    A sample holds until the next one. Gaps longer than ten usual ones, when the run was down, do
    not count.
    """
    if len(samples) < 2:
        return float(samples[0].running) if samples else None
    gaps = [max(0.0, b.time - a.time) for a, b in itertools.pairwise(samples)]
    usual = sorted(gaps)[len(gaps) // 2]
    held = [gap if gap <= 10 * usual else 0.0 for gap in gaps]
    total = sum(held)
    if total == 0:
        return float(samples[-1].running)
    return sum(s.running * gap for s, gap in zip(samples, held, strict=False)) / total
