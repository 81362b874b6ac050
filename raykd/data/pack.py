"""From tokenized documents to rows. Pure numpy.

Documents, or pieces of long ones, stay apart in a row: positions restart in each, and no token
learns from a token of another piece.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raykd.data.tokenize import TokenizedDocument
from raykd.errors import CorpusError

OPEN_ROWS = 64
"""Rows that wait for a piece that fits; more leave less padding and take longer."""

SMALLEST_BUCKET_TOKENS = 32

Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8]
Gold = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or a part of one, that fits into a row. Ids and flags are [n]."""

    input_ids: Ids
    learn: Flags
    gold: Gold | None = None

    @property
    def teaches(self) -> bool:
        """Whether any token of it can be learned: the first one has nothing before it."""
        return bool(self.learn[1:].any())

    @property
    def loss_mask(self) -> Flags:
        """[n]; 1 where the next token is to be learned."""
        return np.append(self.learn[1:], np.uint8(0))


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A row as `schema.PREPARED` has it, with its number of real tokens. All arrays are [L].

    `gold`, of a classifier's row, is [p, W]: a row a learned position.
    """

    input_ids: Ids
    position_ids: Ids
    loss_mask: Flags
    num_tokens: int
    gold: Gold | None = None


@dataclass
class PackingStats:
    """What became of the tokens.

    Every token of every document is in exactly one of `tokens`, `tokens_cut`, `tokens_dropped` and
    `tokens_unused`.

    Attributes:
        packing: How rows were made.
        sequence_length_tokens: Length of the longest row.
        documents: Documents read.
        documents_split: Documents longer than a row that became several pieces.
        documents_dropped: Documents with nothing to learn (or fewer than two tokens).
        rows: Rows written.
        tokens: Real tokens in rows.
        tokens_learned: Tokens in rows that the loss is computed on.
        tokens_cut: Tokens cut off the ends of long documents.
        tokens_dropped: Tokens of pieces with nothing to learn.
        tokens_unused: Tokens beyond the rows that the set may have.
        tokens_at_seams: Tokens to be learned that begin a later piece of a split document, so that
            nothing predicts them.
        tokens_padded: Padding in rows.
        bad_records: Records of the corpus that were skipped.
        rows_taught: Rows of each teacher, where slices have their own; else empty.
    """

    packing: Literal["pack", "pad"] = "pack"
    sequence_length_tokens: int = 0
    documents: int = 0
    documents_split: int = 0
    documents_dropped: int = 0
    rows: int = 0
    tokens: int = 0
    tokens_learned: int = 0
    tokens_cut: int = 0
    tokens_dropped: int = 0
    tokens_unused: int = 0
    tokens_at_seams: int = 0
    tokens_padded: int = 0
    bad_records: int = 0
    rows_taught: dict[str, int] = field(default_factory=dict)

    def count_row(self, row: PackedRow) -> None:
        """Count a row that is written."""
        self.rows += 1
        self.tokens += row.num_tokens
        self.tokens_learned += int(row.loss_mask.sum())
        self.tokens_padded += len(row.input_ids) - row.num_tokens

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tree = asdict(self)
        if not self.rows_taught:
            del tree["rows_taught"]
        return tree

    def sentence(self) -> str:
        """One line for people."""
        length = "up to " if self.packing == "pad" else ""
        padding = 100 * self.tokens_padded / max(1, self.tokens + self.tokens_padded)
        parts = [
            f"{self.documents:,} documents -> {self.rows:,} rows of {length}"
            f"{self.sequence_length_tokens:,}: {self.tokens:,} tokens kept "
            f"({self.tokens_learned:,} to learn)",
            f"{self.documents_split:,} documents split",
            f"{self.tokens_cut:,} tokens cut",
            f"{padding:.1f} % padding",
        ]
        if self.tokens_dropped:
            parts.append(
                f"{self.tokens_dropped:,} tokens dropped with nothing to learn in them "
                f"({self.documents_dropped:,} whole documents)"
            )
        if self.tokens_unused:
            parts.append(f"{self.tokens_unused:,} tokens beyond the set's limit unused")
        if self.bad_records:
            parts.append(f"{self.bad_records:,} bad records skipped")
        if self.rows_taught:
            told = ", ".join(f"{name} {rows:,}" for name, rows in self.rows_taught.items())
            parts.append(f"rows of each teacher: {told}")
        return ", ".join(parts)


@dataclass
class _OpenRow:
    pieces: list[Piece] = field(default_factory=list)
    num_tokens: int = 0


class Packer:
    """Turns documents into rows, in order, holding at most `OPEN_ROWS` unfinished ones."""

    def __init__(
        self,
        sequence_length_tokens: int,
        packing: Literal["pack", "pad"] = "pack",
        buckets_tokens: list[int] | None = None,
        long_documents: Literal["split", "cut", "refuse"] = "split",
        pad_id: int = 0,
        stats: PackingStats | None = None,
    ) -> None:
        """Take the shape of rows.

        Args:
            sequence_length_tokens: Length of a packed row, and of the longest padded one.
            packing: Fill rows, or one piece a row.
            buckets_tokens: For `pad`, the lengths of rows, ascending; the last is
                `sequence_length_tokens`. None or empty: halves of it.
            long_documents: What becomes of a document longer than a row.
            pad_id: The id that fills rows up.
            stats: What it counts in; None counts anew.
        """
        self._length = sequence_length_tokens
        self._packing = packing
        self._buckets = buckets_tokens or default_buckets_tokens(sequence_length_tokens)
        self._long_documents = long_documents
        self._pad_id = pad_id
        self._open: list[_OpenRow] = []
        self.stats = stats or PackingStats(packing, sequence_length_tokens)

    def add(self, document: TokenizedDocument) -> list[PackedRow]:
        """Take one document; return the rows that it finished.

        Raises:
            CorpusError: It is longer than a row, and such ones are refused.
        """
        return [row for piece in self._useful_pieces(document) for row in self._place(piece)]

    def flush(self) -> list[PackedRow]:
        """Return the rows that are not full, oldest first."""
        rows = [self._packed(row) for row in self._open]
        self._open = []
        return rows

    def _useful_pieces(self, document: TokenizedDocument) -> list[Piece]:
        pieces = self._pieces(document)
        useful = [piece for piece in pieces if piece.teaches]
        self.stats.documents += 1
        self.stats.tokens_cut += document.tokens_cut
        self.stats.documents_split += len(pieces) > 1
        self.stats.documents_dropped += not useful
        self.stats.tokens_dropped += sum(len(p.learn) for p in pieces if not p.teaches)
        self.stats.tokens_at_seams += sum(int(p.learn[0]) for p in pieces[1:] if p.teaches)
        return useful

    def _pieces(self, document: TokenizedDocument) -> list[Piece]:
        num_tokens, length = len(document.input_ids), self._length
        if num_tokens > length and self._long_documents == "refuse":
            raise CorpusError(
                f"{document.place}: {num_tokens:,} tokens, but a row holds "
                f"data.sequence_length_tokens = {length:,}; raise it, or set data.long_documents "
                "to `split` or `cut`"
            )
        if self._long_documents == "cut":
            self.stats.tokens_cut += max(0, num_tokens - length)
            num_tokens = min(num_tokens, length)
        return [
            Piece(document.input_ids[a : a + length], document.learn[a : a + length], document.gold)
            for a in range(0, num_tokens, length)
        ]

    def _place(self, piece: Piece) -> list[PackedRow]:
        if self._packing == "pad":
            return [self._packed(_OpenRow([piece], len(piece.learn)))]
        row = self._best_fit(len(piece.learn))
        row.pieces.append(piece)
        row.num_tokens += len(piece.learn)
        if row.num_tokens > self._length - 2:  # no piece has fewer than two tokens
            return self._close(row)
        if len(self._open) > OPEN_ROWS:
            return self._close(max(self._open, key=lambda r: r.num_tokens))
        return []

    def _best_fit(self, num_tokens: int) -> _OpenRow:
        """The fullest open row with room (the oldest of such), or a new one."""
        fitting = [row for row in self._open if row.num_tokens + num_tokens <= self._length]
        if fitting:
            return max(fitting, key=lambda row: row.num_tokens)
        self._open.append(_OpenRow())
        return self._open[-1]

    def _close(self, row: _OpenRow) -> list[PackedRow]:
        self._open = [other for other in self._open if other is not row]
        return [self._packed(row)]

    def _packed(self, row: _OpenRow) -> PackedRow:
        length = self._length
        if self._packing == "pad":
            length = next(bucket for bucket in self._buckets if bucket >= row.num_tokens)
        input_ids = np.full(length, self._pad_id, dtype=np.int32)
        position_ids = np.zeros(length, dtype=np.int32)
        loss_mask = np.zeros(length, dtype=np.uint8)
        start = 0
        for piece in row.pieces:
            stop = start + len(piece.learn)
            input_ids[start:stop] = piece.input_ids
            position_ids[start:stop] = np.arange(stop - start)
            loss_mask[start:stop] = piece.loss_mask
            start = stop
        # Only classifiers bring gold labels, and they have one document a row.
        return PackedRow(input_ids, position_ids, loss_mask, row.num_tokens, row.pieces[0].gold)


def default_buckets_tokens(sequence_length_tokens: int) -> list[int]:
    """Halves of the row length, down to `SMALLEST_BUCKET_TOKENS`, ascending."""
    buckets = [sequence_length_tokens]
    while buckets[0] // 2 >= SMALLEST_BUCKET_TOKENS:
        buckets.insert(0, buckets[0] // 2)
    return buckets
