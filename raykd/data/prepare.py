"""From the job's corpora to prepared rows on disk: read, divide, tokenize, pack, write, publish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config.corpus import CorpusConfig, DataConfig
from raykd.config.job import Job
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords, Document
from raykd.data.fingerprint import corpus_facts, data_facts, fingerprint_of, job_facts
from raykd.data.heldout import HeldoutSplit, NearestScores
from raykd.data.labelled import LabelledTokenizer
from raykd.data.masked import MaskedTokenizer, MaskingSpec, Taught, taught_facts
from raykd.data.of_slices import SliceTeachers, slice_facts
from raykd.data.pack import PackingStats
from raykd.data.publish import published, reusable, write_summary
from raykd.data.rows import PreparedRows, open_rows
from raykd.data.set_rows import SetRows
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
    labels: Taught | None = None,
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
    teachers = SliceTeachers.of(job)
    facts = job_facts(job) | taught_facts(labels) | slice_facts(teachers)
    fingerprint = fingerprint_of(facts, tokenizer)
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
            most = job.evaluation.max_rows
            with SetRows(aside / name, job.data, tokenizer, most, teachers) as rows:
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
    labels: Taught | None = None,
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
    fingerprint = fingerprint_of(facts | taught_facts(labels), tokenizer)
    name = "rows"
    known = reusable(directory, fingerprint)
    if known is not None:
        return known[name]
    with published(directory) as aside:
        with SetRows(aside, data, tokenizer, max_rows) as rows:
            stats = _fill_alone(rows, corpus, bad_records, labels)
        write_summary(aside, fingerprint, {name: stats})
    return stats


def _fill_alone(
    rows: SetRows, corpus: CorpusConfig, bad_records: BadRecords, labels: Taught | None
) -> PackingStats:
    """Write a corpus into one set, reading no further than the set needs."""
    tokenize = tokenizing(rows.tokenizer, rows.data, bad_records, labels)
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
    labels: Taught | None,
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
    labels: Taught | None,
) -> tuple[dict[str, PackingStats], int | None]:
    """Read the corpus once; return the stats and a document to move if a side has no rows."""
    tokenize = tokenizing(tokenizer, job.data, bad_records, labels)
    nearest, teachers, most = NearestScores(), SliceTeachers.of(job), job.evaluation.max_rows
    with (
        SetRows(directory / TRAIN, job.data, tokenizer, None, teachers) as train,
        SetRows(directory / HELDOUT, job.data, tokenizer, most, teachers) as heldout,
    ):
        for document in tokenize(read_documents(job.data.corpus, bad_records)):
            side = heldout if split.holds_out(document.index) else train
            if side.add(document):
                nearest.note(split.score(document.index), document.index)
        if teachers is not None:
            teachers.require_all(train.slices + heldout.slices, bad_records.field)
        train.flush()
        heldout.flush()
        to_move = None
        if not (train.stats.rows and heldout.stats.rows):
            _check_enough(train, heldout, nearest, bad_records.field)
            to_move = nearest.lowest[1] if train.stats.rows else nearest.highest[1]
    return {TRAIN: train.stats, HELDOUT: heldout.stats}, to_move


def tokenizing(
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    bad_records: BadRecords,
    labels: Taught | None,
) -> Callable[[Iterable[Document]], Iterator[TokenizedDocument]]:
    """What makes tokens of a corpus's documents: of text, or of what a classifier is taught."""
    if labels is None:
        return DocumentTokenizer(tokenizer, data.append_eos, bad_records)
    if isinstance(labels, MaskingSpec):
        return MaskedTokenizer(tokenizer, labels, data, bad_records)
    return LabelledTokenizer(tokenizer, labels, data, bad_records)


def _check_enough(train: SetRows, heldout: SetRows, nearest: NearestScores, field: str) -> None:
    if train.num_useful + heldout.num_useful == 0:
        raise _no_rows(field, train.stats, heldout.stats)
    # One that is there in several maskings, or rows of one group, are one all the same.
    if nearest.lowest == nearest.highest:
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
