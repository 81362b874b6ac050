"""What is known of a classifier's rows: gold values beside the prepared rows, by row number.

They are no part of a row itself, so that a teacher's answers are the same for every labelling.

Shapes: N rows of a set, P learned positions of them all, W values a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.errors import StorageError

VALUES_FILE: Final = "gold.npy"
OFFSETS_FILE: Final = "gold_offsets.npy"

Gold = npt.NDArray[np.float32]


def save_gold(directory: Path, rows: Sequence[Gold | None]) -> None:
    """Write the gold values of all rows of a set; nothing where no row has any.

    Args:
        directory: Of the set.
        rows: Of each row [p, W], p its learned positions, in the set's order.
    """
    known = [row for row in rows if row is not None]
    if not known:
        return
    assert len(known) == len(rows), "a set's rows are all a classifier's, or none is"
    np.save(directory / VALUES_FILE, np.concatenate(known))
    np.save(directory / OFFSETS_FILE, np.cumsum([0, *map(len, known)], dtype=np.int64))


@dataclass(frozen=True)
class GoldOf:
    """The gold values of a set; small enough to travel, the files are read where it is called."""

    directory: Path

    def __call__(self, source_rows: npt.NDArray[np.int64]) -> Gold:
        """Values of rows, learned position after learned position.

        Args:
            source_rows: Numbers of rows; -1 is a filler, which has no learned position.

        Returns:
            float32 [M, W]; NaN where nothing is known.

        Raises:
            StorageError: The files are missing or broken.
        """
        values, offsets = _opened(self.directory)
        parts = [values[offsets[row] : offsets[row + 1]] for row in source_rows if row >= 0]
        return np.concatenate([values[:0], *parts])

    def all(self) -> Gold:
        """Values of the whole set, in its order."""
        values, _ = _opened(self.directory)
        return np.array(values)


def with_gold(table: pa.Table, directory: Path, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of a set, with their gold values as one more column where there are any.

    Args:
        table: The rows.
        directory: Of the set.
        rows: Their numbers in it.
    """
    if not (directory / VALUES_FILE).is_file():
        return table
    values, offsets = _opened(directory)
    lengths = np.diff(offsets)[rows] * values.shape[1]
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    flat = pa.array(GoldOf(directory)(rows).reshape(-1))
    return table.append_column("gold", pa.ListArray.from_arrays(ends, flat))


@lru_cache(maxsize=8)
def _opened(directory: Path) -> tuple[Any, Any]:
    try:
        values = np.load(directory / VALUES_FILE, mmap_mode="r")
        return values, np.load(directory / OFFSETS_FILE)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{directory}: its gold labels cannot be read ({error}); remove the directory and run "
            "again"
        ) from error
