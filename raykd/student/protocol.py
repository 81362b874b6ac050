"""The door between the loop and a student: what it is built from, what a step gives and asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.config.job import Job
from raykd.losses.heldout import HeldoutSums
from raykd.models.alignment import Alignment
from raykd.models.encoder import EncoderSpec
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.telemetry.metrics import InnerMetrics

GoldOfRows = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""Numbers of rows (-1 for fillers) to gold values [M, W], learned position after position."""


class Wish(IntEnum):
    """What a rank may ask of all ranks; the strongest wins."""

    GO_ON = 0
    LOOK = 1
    """Whether Ray knows of a notice."""
    SAVE = 2
    SAVE_AT_NOTICE = 3
    SAVE_AND_END = 4


@dataclass(frozen=True)
class StudentSpec:
    """What a rank builds its student from."""

    job: Job
    source: ModelSource
    """Its first weights."""
    num_steps: int
    """Of the whole run."""
    targets: CodecSpec
    """The form in which training rows bring soft targets."""
    heldout: CodecSpec
    """The same for held-out rows: codec `top_k`."""
    head_file: Path | None = None
    """The teacher's head, where the codec needs it."""
    states: CodecSpec | None = None
    """The form in which training rows bring inner states, where they do."""
    alignment: Alignment | None = None
    """Which of them are compared with which of the student's."""
    encoder: EncoderSpec | None = None
    """What a classifier puts out."""
    gold: GoldOfRows | None = None
    """What is known of its rows, by their numbers."""


@dataclass(frozen=True)
class StepResult:
    """What one step did, over all ranks."""

    tokens: int
    tokens_seen: int
    loss: float
    divergence: float | None
    cross_entropy: float
    lr: float
    grad_norm: float
    wait_s: float
    teacher_s: float
    wish: Wish
    """The strongest that any rank wants done after the step."""
    inner: InnerMetrics | None = None
    """Where inner states are compared."""


class Student(Protocol):
    """What the loop asks of a student; every rank calls every method together."""

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        """Learn from this rank's rows of one step."""
        ...

    def heldout(self, rows: pa.Table) -> HeldoutSums:
        """Share the held-out rows out among the ranks; sums over all of them."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights and optimizer."""
        ...

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote."""
        ...
