"""From the job's corpora to prepared rows on disk: read, divide, tokenize, pack, write, publish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raykd.config.corpus import CorpusConfig, DataConfig
from raykd.config.job import Job
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords, Document
from raykd.data.fingerprint import corpus_facts, data_facts, fingerprint_of, job_facts
from raykd.data.labelled import LabelledTokenizer, LabelSpec, label_facts
from raykd.data.order import mix
from raykd.data.pack import PackedRow, Packer, PackingStats
from raykd.data.publish import published, reusable, write_summary
from raykd.data.rows import PreparedRows, RowWriter, open_rows
from raykd.data.tokenize import DocumentTokenizer, TokenizedDocument
from raykd.errors import CorpusError, StorageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["HeldoutSplit", "PreparedRows", "open_rows", "prepare", "prepare_set"]

TRAIN, HELDOUT = "train", "heldout"


def prepare(
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    logs: Path,
    *,
    must_exist: bool = False,
    labels: LabelSpec | None = None,
) -> dict[str, PackingStats]:
    """Prepare every set of a job, or reuse what an equal job has prepared there.

    Args:
        job: The job.
        tokenizer: The tokenizer that teacher and student share.
        directory: Where `train`, `heldout` and each of `evaluation.sets` go. It appears whole, by
            one rename; one process at a time may prepare it.
        logs: Where `bad_records.jsonl` goes.
        must_exist: A run has begun to learn from the rows that are there: others are refused.
        labels: What a classifier is taught; None prepares text to be continued.

    Returns:
        What became of the tokens, by set.

    Raises:
        CorpusError: A corpus cannot be read as the job says, or has too little text.
        StorageError: The directory cannot be written, or holds something else.
    """
    fingerprint = fingerprint_of(job_facts(job) | label_facts(labels), tokenizer)
    known = reusable(directory, fingerprint)
    if known is not None:
        return known
    if must_exist:
        raise StorageError(
            f"{directory}: the corpus, an evaluation set or the tokenizer has changed since this "
            "run began, so its rows would be others in another order; put the files back as they "
            "were, or start a run of another name"
        )
    side_file = _fresh_side_file(logs)
    with published(directory) as aside:
        stats = _prepare_training_corpus(job, tokenizer, aside, side_file, labels)
        for name, corpus in job.evaluation.sets.items():
            bad_records = BadRecords.of(corpus, f"evaluation.sets.{name}", side_file)
            with _SetRows(aside / name, job.data, tokenizer, job.evaluation.max_rows) as rows:
                stats[name] = _fill_alone(rows, corpus, bad_records, labels)
        write_summary(aside, fingerprint, stats)
    return stats


def prepare_set(
    corpus: CorpusConfig,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    max_rows: int | None = None,
    bad_records: BadRecords | None = None,
    labels: LabelSpec | None = None,
) -> PackingStats:
    """Prepare one corpus as one set of rows.

    Args:
        corpus: Where the text is.
        data: How it becomes rows; its own corpus is not read.
        tokenizer: The tokenizer.
        directory: Where the rows go; `open_rows` reads them from there. It appears whole.
        max_rows: At most this many rows; None is no limit.
        bad_records: What to do with bad records; None is what the corpus says, with no side file.
        labels: What a classifier is taught; None prepares text to be continued.

    Raises:
        CorpusError: The corpus cannot be read, or makes no rows.
        StorageError: The directory cannot be written, or holds something else.
    """
    bad_records = bad_records or BadRecords.of(corpus, "data.corpus", None)
    facts = {
        "corpus": corpus_facts(corpus, bad_records.field),
        "data": data_facts(data),
        "max_rows": max_rows,
    }
    fingerprint = fingerprint_of(facts | label_facts(labels), tokenizer)
    name = "rows"
    known = reusable(directory, fingerprint)
    if known is not None:
        return known[name]
    with published(directory) as aside:
        with _SetRows(aside, data, tokenizer, max_rows) as rows:
            stats = _fill_alone(rows, corpus, bad_records, labels)
        write_summary(aside, fingerprint, {name: stats})
    return stats


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


class _SetRows:
    """One set being written: documents in, rows on disk, stats kept. Close it by `with`."""

    def __init__(
        self,
        directory: Path,
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        max_rows: int | None = None,
    ) -> None:
        pad_id = _pad_id(tokenizer)
        self.data = data
        self.tokenizer = tokenizer
        self._max_rows = max_rows
        self._writer = RowWriter(directory, pad_id)
        self._packer = Packer(
            data.sequence_length_tokens,
            data.packing,
            data.pad_buckets_tokens,
            data.long_documents,
            pad_id,
        )

    def __enter__(self) -> _SetRows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.close()
        else:
            self._writer.abandon()

    @property
    def stats(self) -> PackingStats:
        """What became of the documents so far."""
        return self._packer.stats

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
        self._keep(self._packer.add(document))
        return self.num_useful > before

    def flush(self) -> None:
        """Write the rows that are not full."""
        self._keep(self._packer.flush())

    def _keep(self, rows: list[PackedRow]) -> None:
        for row in rows:
            if self.full:
                self.stats.tokens_unused += row.num_tokens
            else:
                self.stats.count_row(row)
                self._writer.add(row)


def _fill_alone(
    rows: _SetRows, corpus: CorpusConfig, bad_records: BadRecords, labels: LabelSpec | None
) -> PackingStats:
    """Write a corpus into one set, reading no further than the set needs."""
    tokenize = _tokenizing(rows.tokenizer, rows.data, bad_records, labels)
    for document in tokenize(read_documents(corpus, bad_records)):
        rows.add(document)
        if rows.full:
            break
    rows.flush()
    rows.stats.bad_records = bad_records.count
    if not rows.stats.rows:
        raise _no_rows(bad_records.field, rows.stats)
    return rows.stats


def _prepare_training_corpus(
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    side_file: Path,
    labels: LabelSpec | None,
) -> dict[str, PackingStats]:
    """Write `train` and `heldout` in one pass, or in two where one came out empty."""
    bad_records = BadRecords.of(job.data.corpus, "data.corpus", side_file)
    split = HeldoutSplit(job.seed, job.evaluation.heldout_fraction)
    stats, to_move = _divide(job, tokenizer, directory, split, bad_records, labels)
    if to_move is not None:
        for name in stats:
            shutil.rmtree(directory / name)
        bad_records.restart()
        split = replace(split, moved=frozenset([to_move]))
        stats, to_move = _divide(job, tokenizer, directory, split, bad_records, labels)
        assert to_move is None, "the corpus changed while it was read"
    stats[TRAIN].bad_records = bad_records.count
    return stats


def _divide(
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    split: HeldoutSplit,
    bad_records: BadRecords,
    labels: LabelSpec | None,
) -> tuple[dict[str, PackingStats], int | None]:
    """Read the corpus once; return the stats and a document to move if a side has no rows."""
    tokenize = _tokenizing(tokenizer, job.data, bad_records, labels)
    nearest = _NearestScores()
    with (
        _SetRows(directory / TRAIN, job.data, tokenizer) as train,
        _SetRows(directory / HELDOUT, job.data, tokenizer, job.evaluation.max_rows) as heldout,
    ):
        for document in tokenize(read_documents(job.data.corpus, bad_records)):
            side = heldout if split.holds_out(document.index) else train
            if side.add(document):
                nearest.note(split.score(document.index), document.index)
        train.flush()
        heldout.flush()
        to_move = None
        if not (train.stats.rows and heldout.stats.rows):
            _check_enough(train, heldout, bad_records.field)
            to_move = nearest.lowest[1] if train.stats.rows else nearest.highest[1]
    return {TRAIN: train.stats, HELDOUT: heldout.stats}, to_move


def _tokenizing(
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    bad_records: BadRecords,
    labels: LabelSpec | None,
) -> Callable[[Iterable[Document]], Iterator[TokenizedDocument]]:
    if labels is None:
        return DocumentTokenizer(tokenizer, data.append_eos, bad_records)
    return LabelledTokenizer(tokenizer, labels, data, bad_records)


@dataclass
class _NearestScores:
    """The useful documents that are nearest to changing sides: (score, index)."""

    lowest: tuple[float, int] = (2.0, -1)
    highest: tuple[float, int] = (-1.0, -1)

    def note(self, score: float, index: int) -> None:
        self.lowest = min(self.lowest, (score, index))
        self.highest = max(self.highest, (score, index))


def _check_enough(train: _SetRows, heldout: _SetRows, field: str) -> None:
    useful = train.num_useful + heldout.num_useful
    if useful == 0:
        raise _no_rows(field, train.stats, heldout.stats)
    if useful == 1:
        raise CorpusError(
            f"{field}: only one document has something to learn, but one must be held out and one "
            "learned from; give more text, or divide it into more documents (for plain text with "
            "`text_unit: paragraph`)"
        )


def _no_rows(field: str, *stats: PackingStats) -> CorpusError:
    num_documents = sum(each.documents for each in stats)
    return CorpusError(
        f"{field}: its {num_documents:,} documents make no row: each has fewer than two tokens or "
        "nothing to learn; give more text, and see that `columns` names the right ones"
    )


def _fresh_side_file(logs: Path) -> Path:
    side_file = logs / "bad_records.jsonl"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        side_file.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{side_file}: cannot be written ({error.strerror})") from error
    return side_file


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    return 0
