"""Readers, one a format: from one file (or hub name) to records with their places.

A reader yields `(place, record, excerpt)`; `record` is a mapping of columns, or a BadRecord where
that one record cannot be read. What makes a whole file unreadable is raised as a CorpusError.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.config.corpus import CorpusConfig
from raykd.data.documents import FOLDER, BadRecord, missing_column
from raykd.errors import CorpusError

ROWS_PER_READ = 256


class Record(NamedTuple):
    """One record, or the reason why it is none, and where it stands."""

    place: str
    columns: Mapping[str, Any] | BadRecord
    excerpt: str


def read_jsonl(path: Path, corpus: CorpusConfig) -> Iterator[Record]:
    """One JSON object a line; blank lines are passed over."""
    with _open(path) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield Record(f"{path}:{number}", _json_object(line), _excerpt(line))


def read_text(path: Path, corpus: CorpusConfig) -> Iterator[Record]:
    """Plain text, a document a file, paragraph or line; what is only white space is passed over."""
    column = _only_text_column(path, corpus, "plain text")
    with _open(path) as file:
        for first_line, raw in _text_units(file, corpus.text_unit):
            try:
                text = raw.decode("utf-8").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                line = first_line + raw.count(b"\n", 0, error.start)
                yield Record(f"{path}:{line}", _not_utf8(raw, error), _excerpt(raw))
                continue
            yield Record(f"{path}:{first_line}", _text_columns(column, text, path, corpus), text)


def _text_columns(
    column: str, text: str, path: Path, corpus: CorpusConfig
) -> dict[str, Any] | BadRecord:
    """A text as a record: alone or as first paragraph and rest, with its folder's name or not."""
    record: dict[str, Any] = {column: text}
    if (pair := corpus.columns.text_pair) is not None:
        first, _, rest = text.lstrip().replace("\r\n", "\n").partition("\n\n")
        if not rest.strip():
            return BadRecord("one paragraph only, nothing follows that could be its `text_pair`")
        record = {column: first, pair: rest}
    if corpus.label_from_folder:
        record[FOLDER] = path.parent.name
    return record


def read_parquet(path: Path, corpus: CorpusConfig) -> Iterator[Record]:
    """A Parquet file, streamed; rows count from 1."""
    names = corpus.columns.names
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(names, file.schema_arrow.names, str(path))
            batches = file.iter_batches(batch_size=ROWS_PER_READ, columns=names)
            yield from _arrow_records(batches, names, str(path))
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error


def read_saved_dataset(path: Path, corpus: CorpusConfig) -> Iterator[Record]:
    """A directory that `datasets` saved; rows count from 1."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CorpusError(
            f"{path}: cannot be read as a directory saved by `datasets` ({_first_line(error)})"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if corpus.split not in saved:
            raise CorpusError(f"{path}: no split {corpus.split!r}; it has {', '.join(saved)}")
        saved = saved[corpus.split]
    elif "split" in corpus.model_fields_set and corpus.split != str(saved.split):
        raise CorpusError(
            f"{path}: split {corpus.split!r} is asked for, but this is one dataset without splits; "
            "remove `split`"
        )
    names = corpus.columns.names
    _require_columns(names, saved.column_names, str(path))
    chosen = saved.select_columns(names).with_format("arrow")
    yield from _arrow_records(chosen.iter(batch_size=ROWS_PER_READ), names, str(path))


def read_hub(name: str, corpus: CorpusConfig) -> Iterator[Record]:
    """A hub dataset, streamed; rows count from 1."""
    import datasets

    try:
        stream = datasets.load_dataset(
            name, corpus.subset, split=corpus.split, revision=corpus.revision, streaming=True
        )
        for number, record in enumerate(stream, start=1):
            yield Record(f"hub dataset {name}, row {number}", record, repr(record))
    except Exception as error:  # the library and the network raise many kinds
        raise CorpusError(
            f"hub dataset {name!r} (subset {corpus.subset!r}, split {corpus.split!r}) cannot be "
            f"read: {type(error).__name__}: {_first_line(error)}"
        ) from error


def read_python(path: Path, corpus: CorpusConfig) -> Iterator[Record]:
    """The strings of a module's literal dicts and lists; the file is parsed, never executed."""
    column = _only_text_column(path, corpus, "a Python file")
    with _open(path) as file:
        source = file.read()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise CorpusError(f"{path}{line}: not a Python file ({_first_line(error)})") from error
    found = False
    for statement in tree.body:
        for number, text in _literal_strings(statement):
            found = True
            yield Record(f"{path}:{number}", {column: text}, text)
    if not found:
        raise CorpusError(f"{path}: assigns no literal dict or list of strings at its top level")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error


def _json_object(line: bytes) -> dict[str, Any] | BadRecord:
    try:
        value = json.loads(line.rstrip().decode("utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(line, error)
    except json.JSONDecodeError as error:
        spread = line.strip() in (b"[", b"{")
        hint = "; JSONL has one whole object a line" if spread else ""
        return BadRecord(f"broken JSON at column {error.colno}: {error.msg}{hint}")
    except (ValueError, RecursionError) as error:
        return BadRecord(f"broken JSON: {_first_line(error)}")
    if not isinstance(value, dict):
        return BadRecord(f"a line must be one JSON object; found a {type(value).__name__}")
    return value


def _text_units(file: BinaryIO, unit: str) -> Iterator[tuple[int, bytes]]:
    """Yield (first line, bytes) of every unit that is not blank."""
    if unit == "file":
        whole = file.read()
        if whole.strip():
            yield 1, whole
        return
    gathered: list[bytes] = []
    for number, line in enumerate(file, start=1):
        blank = not line.strip()
        if unit == "line" and not blank:
            yield number, line.rstrip(b"\r\n")
        elif unit == "paragraph" and not blank:
            gathered.append(line)
        elif gathered:
            yield number - len(gathered), b"".join(gathered).rstrip(b"\r\n")
            gathered = []
    if gathered:
        yield number - len(gathered) + 1, b"".join(gathered).rstrip(b"\r\n")


def _arrow_records(
    batches: Iterable[pa.RecordBatch | pa.Table], names: list[str], source: str
) -> Iterator[Record]:
    number = 0
    for batch in batches:
        columns = [batch.column(name) for name in names]
        for i in range(batch.num_rows):
            number += 1
            try:
                record = {n: c[i].as_py() for n, c in zip(names, columns, strict=True)}
            except UnicodeDecodeError as error:
                bad = _not_utf8(error.object, error)
                yield Record(f"{source}, row {number}", bad, _excerpt(error.object))
                continue
            yield Record(f"{source}, row {number}", record, repr(record))


def _require_columns(names: list[str], present: list[str], source: str) -> None:
    for name in names:
        if name not in present:
            raise CorpusError(f"{source}: {missing_column(name, present)}")


def _only_text_column(path: Path, corpus: CorpusConfig, what: str) -> str:
    if corpus.columns.label is not None:
        raise CorpusError(
            f"{path}: {what} has no column {corpus.columns.label!r}; use JSONL or Parquet, or for "
            "plain text in a folder a label `label_from_folder: true`"
        )
    if corpus.columns.slice is not None:
        raise CorpusError(
            f"{path}: {what} has no column {corpus.columns.slice!r} to name slices; use JSONL or "
            "Parquet"
        )
    if corpus.columns.text is None:
        raise CorpusError(
            f"{path}: {what} has no columns {', '.join(map(repr, corpus.columns.names))}; "
            "name one with `columns: {text: text}`, or use JSONL or Parquet"
        )
    return corpus.columns.text


def _literal_strings(statement: ast.stmt) -> list[tuple[int, str]]:
    """(line, text) of each string, where the statement assigns a dict or list of strings only."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return []
    if any(isinstance(t, ast.Name) and t.id.startswith("__") for t in targets):
        return []  # `__all__` is a list of strings, but no text
    if isinstance(statement.value, ast.Dict):
        elements = statement.value.values
    elif isinstance(statement.value, ast.List | ast.Tuple):
        elements = statement.value.elts
    else:
        return []
    strings = [(element.lineno, _literal(element)) for element in elements]
    kept = [(line, text) for line, text in strings if isinstance(text, str)]
    return kept if len(kept) == len(strings) else []


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> BadRecord:
    at = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
    return BadRecord(f"not UTF-8: byte 0x{data[error.start]:02x} at byte {at} of the line")


def _excerpt(data: bytes) -> str:
    return data[:800].decode("utf-8", errors="backslashreplace").rstrip("\r\n")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
