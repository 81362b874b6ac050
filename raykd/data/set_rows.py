"""One set of rows while it is written: tokenized documents in, rows on disk, statistics kept."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config.corpus import DataConfig
from raykd.data.of_slices import SliceTeachers
from raykd.data.pack import PackedRow, Packer, PackingStats
from raykd.data.rows import RowWriter
from raykd.data.tokenize import TokenizedDocument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SetRows:
    """One set being written. Close it by `with`.

    Documents of different teachers are packed apart, so that no row has two.
    """

    def __init__(
        self,
        directory: Path,
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        max_rows: int | None = None,
        teachers: SliceTeachers | None = None,
    ) -> None:
        """Make the directory.

        Args:
            directory: Where the rows go.
            data: How documents become rows.
            tokenizer: The tokenizer.
            max_rows: At most this many; None is no limit.
            teachers: Those of slices; None where one teacher has all the data.
        """
        pad_id = pad_id_of(tokenizer)
        self.data = data
        self.tokenizer = tokenizer
        self.slices: Counter[str] = Counter()
        """Documents of each slice."""
        self._max_rows = max_rows
        self._teachers = teachers
        self._writer = RowWriter(directory, pad_id, by_teacher=teachers is not None)
        self._stats = PackingStats(data.packing, data.sequence_length_tokens)
        self._packers = [
            Packer(
                data.sequence_length_tokens,
                data.packing,
                data.pad_buckets_tokens,
                data.long_documents,
                pad_id,
                self._stats,
            )
            for _ in range(len(teachers.names) if teachers else 1)
        ]

    def __enter__(self) -> SetRows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.close()
        else:
            self._writer.abandon()

    @property
    def stats(self) -> PackingStats:
        """What became of the documents so far."""
        return self._stats

    @property
    def full(self) -> bool:
        """Whether the set has all the rows it may have."""
        return self._max_rows is not None and self.stats.rows >= self._max_rows

    @property
    def num_useful(self) -> int:
        """Documents that give rows."""
        return self.stats.documents - self.stats.documents_dropped

    def add(self, document: TokenizedDocument) -> bool:
        """Take one document; return whether it gives rows."""
        before = self.num_useful
        teacher = 0
        if self._teachers is not None:
            teacher = self._teachers.number(document.slice)
            if document.slice is not None:
                self.slices[document.slice] += 1
        self._keep(self._packers[teacher].add(document), teacher)
        return self.num_useful > before

    def flush(self) -> None:
        """Write the rows that are not full, of each teacher one in turn: a limit spares all."""
        for turn in zip_longest(*(packer.flush() for packer in self._packers)):
            for teacher, row in enumerate(turn):
                self._keep([row] if row else [], teacher)

    def _keep(self, rows: list[PackedRow], teacher: int) -> None:
        for row in rows:
            if self.full:
                self.stats.tokens_unused += row.num_tokens
                continue
            self.stats.count_row(row)
            if self._teachers is not None:
                name = self._teachers.names[teacher]
                self.stats.rows_taught[name] = self.stats.rows_taught.get(name, 0) + 1
            self._writer.add(row, teacher)


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that rows are padded with."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    return 0
