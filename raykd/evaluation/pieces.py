"""Rows taken apart into documents, or pieces of long ones; padding is left out.

N tokens of all rows, P pieces, G n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.models.batch import flat

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pieces:
    """P pieces, token after token.

    Attributes:
        ids_N: Token ids.
        piece_N: The piece that a token belongs to, ascending.
        row_P: The row that a piece stands in.
    """

    ids_N: Ints
    piece_N: Ints
    row_P: Ints

    @property
    def num_pieces(self) -> int:
        """P."""
        return len(self.row_P)

    @property
    def lengths(self) -> Ints:
        """Tokens of each piece."""
        return np.bincount(self.piece_N, minlength=self.num_pieces).astype(np.int64)

    @property
    def ids(self) -> list[list[int]]:
        """Token ids, piece by piece."""
        return [one.tolist() for one in np.split(self.ids_N, np.cumsum(self.lengths)[:-1])]

    def take(self, pieces: Ints) -> Pieces:
        """Some pieces, in ascending order."""
        chosen_P = np.zeros(self.num_pieces, dtype=bool)
        chosen_P[pieces] = True
        number_P = np.cumsum(chosen_P) - 1
        tokens_N = chosen_P[self.piece_N]
        return Pieces(self.ids_N[tokens_N], number_P[self.piece_N[tokens_N]], self.row_P[chosen_P])

    def ngrams(self, n: int, vocab_size: int) -> tuple[npt.NDArray[np.uint64], Ints]:
        """Every run of n ids within a piece as one number, exactly; and its piece.

        Args:
            n: At least 1; `vocab_size` to the power n must be below 2^64.
            vocab_size: Ids are in [0, vocab_size).
        """
        assert vocab_size**n < 2**64, "an n-gram is one number"
        num = max(0, len(self.ids_N) - n + 1)
        keys = np.zeros(num, dtype=np.uint64)
        for i in range(n):
            keys = keys * np.uint64(vocab_size) + self.ids_N[i : i + num].astype(np.uint64)
        whole = self.piece_N[:num] == self.piece_N[n - 1 : n - 1 + num]
        return keys[whole], self.piece_N[:num][whole]


def pieces_of(rows: pa.Table, *, prompts: bool = False) -> Pieces:
    """Take rows apart.

    Args:
        rows: The columns of `schema.PREPARED` first.
        prompts: Only tokens that are read and not learned.
    """
    ids_N, offsets = flat(rows, "input_ids")
    positions_N, _ = flat(rows, "position_ids")
    mask_N, _ = flat(rows, "loss_mask")
    row_N = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
    starts_N = positions_N == 0
    piece_N = np.cumsum(starts_N) - 1
    keep_N = np.ones(len(ids_N), dtype=bool)
    if prompts:
        learned_N = np.append(False, mask_N[:-1].astype(bool)) & ~starts_N
        keep_N = ~learned_N
    # Padding is a document of its own each, of one token: no real piece is so short.
    counts_P = np.bincount(piece_N[keep_N], minlength=int(starts_N.sum()))
    keep_N &= counts_P[piece_N] > 1
    _, first, number_N = np.unique(piece_N[keep_N], return_index=True, return_inverse=True)
    return Pieces(
        ids_N[keep_N].astype(np.int64),
        number_N.astype(np.int64),
        row_N[keep_N][first].astype(np.int64),
    )


def joined(parts: Sequence[Pieces]) -> Pieces:
    """Pieces of several tables, one after the other; each keeps its own numbers of rows."""
    starts = np.cumsum([0, *(part.num_pieces for part in parts)])[:-1]
    return Pieces(
        np.concatenate([part.ids_N for part in parts]),
        np.concatenate([part.piece_N + at for part, at in zip(parts, starts, strict=True)]),
        np.concatenate([part.row_P for part in parts]),
    )
