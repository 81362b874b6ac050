"""A sample of text to measure on: one document a row, and where each row comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.config.corpus import ColumnsConfig, CorpusConfig, DataConfig
from raykd.data.corpus import find_files, read_documents, read_records
from raykd.data.documents import BadRecord, BadRecords, missing_column
from raykd.data.fingerprint import corpus_facts, data_facts, fingerprint_of
from raykd.data.masked import Taught, taught_facts
from raykd.data.of_slices import SliceTeachers, slice_facts
from raykd.data.pack import PackingStats
from raykd.data.prepare import tokenizing
from raykd.data.publish import published, reusable, write_summary
from raykd.data.set_rows import SetRows
from raykd.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIELD: Final = "--data"
_ORIGINS: Final = "origins.parquet"
_PLACE: Final = "place"
_SET: Final = "rows"
NO_VALUE: Final = "(none)"
LONGEST_VALUE: Final = 80


@dataclass(frozen=True)
class Origins:
    """Where rows come from.

    Attributes:
        places: Of each row, for people.
        slices: By column asked for, the value of each row's record.
    """

    places: list[str]
    slices: dict[str, list[str]]

    @property
    def files(self) -> list[str]:
        """Of each row, its file, below the directory that all have in common."""
        whole = [Path(re.sub(r"(:\d+|, row \d+)$", "", place)) for place in self.places]
        parents = [path.parent.parts for path in whole]
        shared = 0
        while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
            shared += 1
        return [str(Path(*path.parts[shared:])) for path in whole]


def prepare_sample(
    corpus: CorpusConfig,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    max_rows: int,
    slices: Sequence[str],
    labels: Taught | None = None,
    teachers: SliceTeachers | None = None,
) -> PackingStats:
    """Prepare the first documents of a corpus, each in rows of its own.

    Args:
        corpus: Where the text is.
        data: How it becomes tokens; documents are not packed, whatever it says.
        tokenizer: The tokenizer.
        directory: Where the rows go; it appears whole.
        max_rows: At most this many rows; reading ends there.
        slices: Columns of the records whose values are kept beside the rows.
        labels: What a classifier is taught; its gold values are kept beside the rows too.
        teachers: Those of slices; None where one teacher has all the data.

    Raises:
        CorpusError: The corpus cannot be read, has no such column, or makes no rows.
        StorageError: The directory cannot be written, or holds something else.
    """
    data = data.model_copy(update={"packing": "pad"})
    facts = {
        "corpus": corpus_facts(corpus, FIELD),
        "data": data_facts(data),
        "max_rows": max_rows,
        "slices": list(slices),
    }
    fingerprint = fingerprint_of(facts | taught_facts(labels) | slice_facts(teachers), tokenizer)
    known = reusable(directory, fingerprint)
    if known is not None:
        return known[_SET]
    with published(directory) as aside:
        with SetRows(aside, data, tokenizer, max_rows, teachers) as rows:
            places = _fill(rows, corpus, labels)
        stats = rows.stats
        columns = {column: _values(corpus, column, places) for column in slices}
        table = pa.table({_PLACE: places, **{f"slice:{k}": v for k, v in columns.items()}})
        pq.write_table(table, aside / _ORIGINS)
        write_summary(aside, fingerprint, {_SET: stats})
    return stats


def read_origins(directory: Path) -> Origins:
    """Where the rows of a prepared sample come from."""
    columns = pq.read_table(directory / _ORIGINS).to_pydict()
    places = columns.pop(_PLACE)
    return Origins(places, {name.removeprefix("slice:"): v for name, v in columns.items()})


def _fill(rows: SetRows, corpus: CorpusConfig, labels: Taught | None) -> list[str]:
    """Write rows until there are enough; return the place of each."""
    bad_records = BadRecords.of(corpus, FIELD, None)
    tokenize = tokenizing(rows.tokenizer, rows.data, bad_records, labels)
    places = list[str]()
    for document in tokenize(read_documents(corpus, bad_records)):
        rows.add(document)
        places += [document.place] * (rows.stats.rows - len(places))
        if rows.full:
            break
    rows.stats.bad_records = bad_records.count
    if not places:
        raise CorpusError(
            f"{FIELD}: its {rows.stats.documents:,} documents make no row: each has fewer than two "
            "tokens or nothing to learn; give more text, and see that the columns are the right "
            "ones (--column)"
        )
    return places


def _values(corpus: CorpusConfig, column: str, places: Sequence[str]) -> list[str]:
    """What a column holds in the records at `places`."""
    for file in find_files(corpus, FIELD):
        if file.format in ("text", "python"):
            raise CorpusError(
                f"--slice {column}: {file.path} is {file.format} and has no columns; use JSONL or "
                "Parquet, or leave it out: rows are divided by file and length anyway"
            )
    alone = corpus.model_copy(update={"columns": ColumnsConfig(text=column)})
    wanted, found, present = set(places), dict[str, str](), list[str]()
    known = False
    for record in read_records(alone, FIELD):
        if record.place not in wanted or isinstance(record.columns, BadRecord):
            continue
        present = present or list(record.columns)
        known = known or column in record.columns
        found[record.place] = _shown(record.columns.get(column))
        if len(found) == len(wanted):
            break
    if not known:
        raise CorpusError(f"--slice {column}: {missing_column(column, present)}")
    return [found.get(place, NO_VALUE) for place in places]


def _shown(value: object) -> str:
    if value is None or value == "":
        return NO_VALUE
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
