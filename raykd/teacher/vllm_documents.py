"""Rows taken apart into documents: vLLM knows no borders inside a prompt.

A document goes to vLLM as a prompt of its own; what is wanted of it are the log probabilities at
the tokens that follow the learned positions. Padding, and documents without such a token, never go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.models.batch import flat


@dataclass(frozen=True, eq=False)
class Document:
    """A document with a token to learn, cut after the last one.

    Attributes:
        row: Of the request.
        start: Place of its first token in the row.
        token_ids: At least two.
        wanted: Positions in it whose next token is learned, ascending.
    """

    row: int
    start: int
    token_ids: list[int]
    wanted: npt.NDArray[np.int64]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The token that follows each wanted position."""
        return np.asarray(self.token_ids, dtype=np.int64)[self.wanted + 1]


def documents_in(rows: pa.Table) -> list[Document]:
    """Documents of all rows, in the order of their learned tokens.

    Args:
        rows: Columns of `schema.PREPARED`; a document begins at each position 0 and each row.
    """
    ids, offsets = flat(rows, "input_ids")
    positions, _ = flat(rows, "position_ids")
    mask, _ = flat(rows, "loss_mask")
    found: list[Document] = []
    for row in range(rows.num_rows):
        place = slice(offsets[row], offsets[row + 1])
        found += _in_row(row, ids[place], positions[place] == 0, mask[place])
    return found


def _in_row(
    row: int, ids_T: npt.NDArray[Any], begins_T: npt.NDArray[Any], mask_T: npt.NDArray[Any]
) -> Iterator[Document]:
    starts = sorted({0, *np.flatnonzero(begins_T).tolist()})
    for start, end in zip(starts, [*starts[1:], len(ids_T)], strict=True):
        wanted = np.flatnonzero(mask_T[start:end])
        if len(wanted):
            last_label = int(wanted[-1]) + 1
            yield Document(row, start, ids_T[start : start + last_label + 1].tolist(), wanted)


def kept_in_rows(documents: list[Document], num_rows: int) -> list[int]:
    """Tokens learned from in each row."""
    counts = [0] * num_rows
    for document in documents:
        counts[document.row] += len(document.wanted)
    return counts
