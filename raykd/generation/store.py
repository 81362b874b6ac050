"""Completions that are kept: Parquet files that appear whole, read by any run of the same teacher.

A directory belongs to one teacher, one template and one way of sampling; a completion is found by
its request's key. Several runs may write at once: files have names of their own, and what two of
them hold is the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raykd import schema
from raykd.errors import StorageError
from raykd.generation.requests import Request

KEPT: Final = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("messages", pa.list_(schema.MESSAGE)),
        pa.field("text", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("seed", pa.int64()),
        *schema.COMPLETIONS,
        pa.field("teacher", pa.string()),
        pa.field("sampling", pa.string()),
    ]
)
"""A completion as it is kept, readable by itself."""

TOLD: Final = [name for name in schema.COMPLETIONS.names if name != schema.LOGPROBS]
"""What is read of all completions at once."""

LOGPROB_ROWS: Final = 64
"""Completions whose log probabilities are in memory at once."""

MERGE_AT: Final = 64
"""Files of one answer each that become one file."""

Completion = dict[str, Any]
"""`TOLD` of `schema.COMPLETIONS`."""


class GenerationStore:
    """One directory of completions.

    Args:
        directory: Where; made when something is first written.
        teacher: Who writes them, for readers of the files.
        sampling: How, as JSON.
    """

    def __init__(self, directory: Path, teacher: str, sampling: str) -> None:
        self._directory = directory
        self._teacher = teacher
        self._sampling = sampling
        self._small: list[Path] = []

    def read(self, keys: set[str]) -> dict[str, Completion]:
        """What is kept of these.

        Raises:
            StorageError: A file there cannot be read.
        """
        found: dict[str, Completion] = {}
        wanted = pa.array(sorted(keys), pa.string())
        for table in self._tables(["key", *TOLD]):
            for row in table.filter(pc.is_in(table.column("key"), wanted)).to_pylist():
                found[row.pop("key")] = row
        return found

    def logprobs(self, keys: set[str]) -> Iterator[dict[str, list[dict[str, Any]] | None]]:
        """What the endpoint said of each token of these, a few completions at a time.

        Args:
            keys: Of the completions; one that is not kept is left out.

        Yields:
            Key to a value of `schema.TOKENS`, None where nothing was said; each key once.

        Raises:
            StorageError: A file there cannot be read.
        """
        left = set(keys)
        for table in self._tables(["key", schema.LOGPROBS]):
            here = [key in left for key in table.column("key").to_pylist()]
            wanted = table.filter(pa.array(here, pa.bool_()))
            for at in range(0, wanted.num_rows, LOGPROB_ROWS):
                rows = wanted.slice(at, LOGPROB_ROWS).to_pylist()
                part = {row["key"]: row.get(schema.LOGPROBS) for row in rows if row["key"] in left}
                left -= part.keys()
                yield part

    def _tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of all files; one that an older file lacks is left out."""
        seen: set[Path] = set()
        # Another run may merge files meanwhile: what they held is in a new one then.
        while files := sorted(set(self._directory.glob("part-*.parquet")) - seen):
            seen.update(files)
            for file in files:
                if (table := _columns_of(file, columns)) is not None:
                    yield table

    def write(self, asked: Sequence[Request], answer: pa.Table) -> None:
        """Keep an answer; when this returns, a run that is killed has not lost it.

        Raises:
            StorageError: The directory cannot be written.
        """
        if not asked:
            return
        columns: list[Any] = [
            pa.array([getattr(one, field.name) for one in asked], field.type)
            for field in list(KEPT)[:5]
        ]
        columns += [answer.column(name) for name in schema.COMPLETIONS.names]
        columns += [pa.array([each] * len(asked)) for each in (self._teacher, self._sampling)]
        self._small.append(self._publish(pa.table(columns, schema=KEPT)))
        if len(self._small) >= MERGE_AT:
            self.merge()

    def merge(self) -> None:
        """Make one file of the small ones that this process has written."""
        small, self._small = self._small, []
        if len(small) < 2:
            return
        self._publish(pa.concat_tables([pq.read_table(file, schema=KEPT) for file in small]))
        for file in small:
            file.unlink(missing_ok=True)

    def _publish(self, table: pa.Table) -> Path:
        name = f"part-{uuid.uuid4().hex}.parquet"
        aside = self._directory / f".{name}.writing"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, aside)
            return aside.rename(self._directory / name)
        except OSError as error:
            raise StorageError(
                f"{self._directory}: completions cannot be kept ({error.strerror or error})"
            ) from None


def _columns_of(file: Path, columns: list[str]) -> pa.Table | None:
    """Some columns of a file, as far as it has them; None where another run has merged it."""
    try:
        there = pq.read_schema(file).names
        return pq.read_table(file, columns=[name for name in columns if name in there])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{file}: kept completions cannot be read ({_first_line(error)}); remove the file, "
            "and what it held is asked for again"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
