"""How often the store had what was asked for.

Shapes: S rows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from raykd.store.pieces import Flags, Pieces


@dataclass
class Tally:
    """Rows with a token to learn that were asked for, and their learned tokens; thread-safe."""

    hit_rows: int = 0
    hit_tokens: int = 0
    missed_rows: int = 0
    missed_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, pieces: Pieces, held: Flags) -> None:
        """Count the rows of one request.

        Args:
            pieces: Of all rows.
            held: bool [S]; whether each row is read from the store.
        """
        hit = held[pieces.rows]
        hit_tokens = int(pieces.tokens[hit].sum())
        with self._lock:
            self.hit_rows += len(np.unique(pieces.rows[hit]))
            self.hit_tokens += hit_tokens
            self.missed_rows += len(np.unique(pieces.rows[~hit]))
            self.missed_tokens += int(pieces.tokens.sum()) - hit_tokens
