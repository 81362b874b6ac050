"""Where each piece lies: sorted arrays of 24 bytes a piece.

Runs of growing size, as in a log-structured merge tree: what a flush adds is merged with the runs
that are no larger, so that a piece is copied log(pieces) times over a run's life.

Shapes: P pieces, Q pieces asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raykd.store.pieces import Int64s, Keys

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Run:
    """Keys [P, 2] in ascending order, each once; beside them shard and row."""

    first: npt.NDArray[np.uint64]
    second: npt.NDArray[np.uint64]
    shards: Int32s
    rows: Int32s

    def __len__(self) -> int:
        return len(self.first)


class PieceIndex:
    """From keys to shard and row; the first one added wins.

    Changing it is one assignment: whoever looks up meanwhile sees it before or after.
    """

    def __init__(self) -> None:
        self._runs: tuple[_Run, ...] = ()

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return sum(
            part.nbytes
            for run in self._runs
            for part in (run.first, run.second, run.shards, run.rows)
        )

    def add(self, keys: list[Keys], shards: list[int]) -> None:
        """Take the keys of shards, those of each in the order of its rows.

        Args:
            keys: uint64 [P, 2] a shard.
            shards: The shards' numbers.
        """
        if not any(len(each) for each in keys):
            return
        rows = np.concatenate([np.arange(len(each), dtype=np.int32) for each in keys])
        numbers = np.repeat(np.array(shards, np.int32), [len(each) for each in keys])
        joined = np.concatenate(keys)
        run = _sorted(_Run(joined[:, 0], joined[:, 1], numbers, rows))
        runs = list(self._runs)
        while runs and len(runs[-1]) <= 2 * len(run):
            run = _sorted(_joined(runs.pop(), run))
        self._runs = (*runs, run)

    def find(self, keys: Keys) -> tuple[Int32s, Int32s]:
        """Look keys up.

        Args:
            keys: uint64 [Q, 2].

        Returns:
            The number of the shard [Q], -1 where the key is not there, and the row in it [Q].
        """
        shards = np.full(len(keys), -1, np.int32)
        rows = np.zeros(len(keys), np.int32)
        for run in self._runs:
            wanted = np.flatnonzero(shards < 0)
            at = _positions(run, keys[wanted])
            here = at >= 0
            shards[wanted[here]] = run.shards[at[here]]
            rows[wanted[here]] = run.rows[at[here]]
        return shards, rows


def _positions(run: _Run, keys: Keys) -> Int64s:
    """The place of each key in the run [Q], -1 where it is not there."""
    at: Int64s = np.searchsorted(run.first, keys[:, 0]).astype(np.int64)
    found = np.full(len(keys), -1, np.int64)
    going = np.arange(len(keys))
    while going.size:
        # Two keys that share their first half are next to each other.
        going = going[at[going] < len(run)]
        going = going[run.first[at[going]] == keys[going, 0]]
        equal = run.second[at[going]] == keys[going, 1]
        found[going[equal]] = at[going[equal]]
        going = going[~equal]
        at[going] += 1
    return found


def _joined(older: _Run, newer: _Run) -> _Run:
    return _Run(
        np.concatenate([older.first, newer.first]),
        np.concatenate([older.second, newer.second]),
        np.concatenate([older.shards, newer.shards]),
        np.concatenate([older.rows, newer.rows]),
    )


def _sorted(run: _Run) -> _Run:
    """In ascending order, of equal keys only the first; the sort is stable."""
    order = np.lexsort((run.second, run.first))
    first, second = run.first[order], run.second[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    kept = order[fresh]
    return _Run(first[fresh], second[fresh], run.shards[kept], run.rows[kept])
