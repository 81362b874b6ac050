"""Which documents of a corpus are held out of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raykd.data.order import mix


@dataclass(frozen=True)
class HeldoutSplit:
    """Which documents of the corpus are held out: a pure function of the seed and the document.

    Attributes:
        seed: The job's.
        fraction: Share of the documents held out.
        moved: Documents that go to the other side, because one side would have no rows.
    """

    seed: int
    fraction: float
    moved: frozenset[int] = frozenset()

    def holds_out(self, index: int) -> bool:
        """Whether document `index` is kept out of training."""
        return (self.score(index) < self.fraction) != (index in self.moved)

    def score(self, index: int) -> float:
        """The document's draw, uniform in [0, 1)."""
        key = mix(np.array([self.seed], dtype=np.uint64)) ^ np.uint64(0x48454C444F5554)
        draw = mix(mix(key) + np.uint64(index))
        return float(draw[0] >> np.uint64(11)) / 2.0**53


@dataclass
class NearestScores:
    """The useful documents that are nearest to changing sides: (score, index)."""

    lowest: tuple[float, int] = (2.0, -1)
    highest: tuple[float, int] = (-1.0, -1)

    def note(self, score: float, index: int) -> None:
        """Take a document that gives rows."""
        self.lowest = min(self.lowest, (score, index))
        self.highest = max(self.highest, (score, index))
