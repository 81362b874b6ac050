"""What one forward pass of a student learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from raykd.models.batch import Batch
from raykd.student.representations import ArrivedStates
from raykd.student.targets import Arrived


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass learns from."""

    batch: Batch
    arrived: Arrived | None
    token_weights_M: torch.Tensor | None
    states: ArrivedStates | None = None

    @property
    def targets(self) -> Any:
        """What its learned positions are compared with; None for the text alone."""
        return None if self.arrived is None else self.arrived.targets

    @property
    def num_positions(self) -> int:
        """Positions whose inner states are compared."""
        return 0 if self.states is None else self.states.num_positions

    @property
    def weight(self) -> float:
        """Sum of the weights of its tokens."""
        if self.token_weights_M is None:
            return float(len(self.batch.keep_M))
        return float(self.token_weights_M.double().sum())
