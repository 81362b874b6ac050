"""One global order of rows: the row at a place is a pure function of (seed, epoch, position).

Nothing about ranks, blocks or processes is in it, so that any range of places can be read by anyone
at any time, in memory that does not grow with the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WINDOW_STEPS = 32
"""Steps' worth of neighbouring rows that are sorted by length, where rows differ in length."""

FEISTEL_ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, eq=False)
class RowOrder:
    """The order of a run's rows, epoch after epoch.

    Attributes:
        num_rows: Rows in the prepared set, N.
        epochs: Times each is read.
        seed: With the epoch and the position it decides the row.
        shuffle: False reads the set as it lies, every epoch.
        lengths: Tokens of each row, int [N], where they differ; None where they do not. Given with
            `shuffle`, rows of about equal length come together: each window of
            `WINDOW_STEPS * global_batch` positions is sorted by length, and its groups of
            `global_batch` are then shuffled.
        global_batch: Rows of a step.
    """

    num_rows: int
    epochs: int
    seed: int
    shuffle: bool = True
    lengths: npt.NDArray[np.integer] | None = None
    global_batch: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: A count is not positive, or `lengths` is not one a row.
        """
        if self.num_rows < 1 or self.epochs < 1 or self.global_batch < 1:
            raise ValueError(
                "num_rows, epochs and global_batch must be positive; found "
                f"{self.num_rows}, {self.epochs} and {self.global_batch}"
            )
        if self.lengths is not None and len(self.lengths) != self.num_rows:
            raise ValueError(f"{len(self.lengths)} lengths for {self.num_rows} rows")

    @property
    def num_places(self) -> int:
        """Places in the run that hold a row."""
        return self.num_rows * self.epochs

    def source_rows(self, start: int, stop: int) -> Rows:
        """The prepared rows at places [start, stop); -1 past the last epoch.

        Raises:
            ValueError: The range is not one.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"places [{start}, {stop}) are no range")
        places = np.arange(start, stop, dtype=np.int64)
        sources = np.full(len(places), -1, dtype=np.int64)
        real = places < self.num_places
        sources[real] = self._sources(places[real])
        return sources

    def _sources(self, places: Rows) -> Rows:
        if not self.shuffle:
            return places % self.num_rows
        if self.lengths is None:
            return self._permuted(places)
        return self._grouped(places)

    def _permuted(self, places: Rows) -> Rows:
        epochs, positions = np.divmod(places, self.num_rows)
        return permute(positions, self.num_rows, self._keys(epochs))

    def _grouped(self, places: Rows) -> Rows:
        window_rows = WINDOW_STEPS * self.global_batch
        epochs, positions = np.divmod(places, self.num_rows)
        windows = positions // window_rows
        sources = np.empty(len(places), dtype=np.int64)
        for epoch, window in np.unique(np.stack([epochs, windows], axis=1), axis=0).tolist():
            here = (epochs == epoch) & (windows == window)
            inside = positions[here] - window * window_rows
            sources[here] = self._window(epoch, window * window_rows, window_rows)[inside]
        return sources

    def _window(self, epoch: int, first: int, window_rows: int) -> Rows:
        """One window of an epoch: groups of rows of about equal length, in shuffled order."""
        assert self.lengths is not None
        begin = epoch * self.num_rows
        rows = self._permuted(
            np.arange(begin + first, begin + min(first + window_rows, self.num_rows))
        )
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        whole = len(rows) // self.global_batch
        order = self._group_order(epoch, first, whole)
        groups = rows[: whole * self.global_batch].reshape(whole, self.global_batch)[order]
        return np.concatenate([groups.ravel(), rows[whole * self.global_batch :]])

    def _group_order(self, epoch: int, first: int, num_groups: int) -> Rows:
        key = mix(self._keys(np.array([epoch])) ^ mix(np.array([first], dtype=np.uint64)))
        groups: Words = np.arange(num_groups, dtype=np.uint64)
        return np.argsort(mix(key + groups), kind="stable")

    def _keys(self, epochs: Rows) -> Words:
        seed = mix(np.array([self.seed], dtype=np.uint64))
        return mix(seed + epochs.astype(np.uint64))


def permute(positions: Rows, size: int, keys: Words) -> Rows:
    """Where each position goes under the permutation of [0, size) that its key chooses.

    A balanced Feistel network over the next even power of two, walked until it is back inside.

    Args:
        positions: int64 [n], each in [0, size).
        size: Length of the permutation.
        keys: uint64 [n], or [1] for all.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, sections 4 and 5.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    values = positions.astype(np.uint64)
    keys = np.broadcast_to(keys, values.shape)
    walking = np.arange(len(values))
    while len(walking):
        values[walking] = _feistel(values[walking], half_bits, keys[walking])
        walking = walking[values[walking] >= size]
    return values.astype(np.int64)


def mix(words: Words) -> Words:
    """The splitmix64 finalizer, a fixed bijection of 64-bit words that scatters them.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, fig. 16.
    """
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def _feistel(values: Words, half_bits: int, keys: Words) -> Words:
    bits = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for number in range(FEISTEL_ROUNDS):
        round_keys = mix(keys + np.uint64(number))
        left, right = right, left ^ (mix(right ^ round_keys) & mask)
    return (left << bits) | right
