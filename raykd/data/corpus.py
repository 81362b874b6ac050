"""From a corpus in the job file to documents."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raykd.config.corpus import CorpusConfig, CorpusFormat
from raykd.data import formats
from raykd.data.documents import (
    BadRecord,
    BadRecords,
    Document,
    content_of,
    group_of,
    slice_of,
)
from raykd.errors import CorpusError
from raykd.package_paths import is_package_reference, resolve_package_path

ENDINGS: dict[str, CorpusFormat] = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".py": "python",
}
SAVED_DATASET_MARKS = ("state.json", "dataset_dict.json")

_READERS = {
    "jsonl": formats.read_jsonl,
    "parquet": formats.read_parquet,
    "text": formats.read_text,
    "datasets": formats.read_saved_dataset,
    "python": formats.read_python,
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file (for `datasets` a directory) and the format it is read as."""

    path: Path
    format: CorpusFormat


def read_documents(corpus: CorpusConfig, bad_records: BadRecords) -> Iterator[Document]:
    """Yield the corpus's documents, files in the order of their names.

    Args:
        corpus: Where the text is.
        bad_records: What to do with a record that cannot be read.

    Raises:
        CorpusError: A file is missing or unreadable, a record is bad and the corpus says to stop,
            or there is no document at all.
    """
    found = 0
    documents = _documents(corpus, bad_records)
    for document in itertools.islice(documents, corpus.max_documents):
        found += 1
        yield document
    if found == 0:
        skipped = f" ({bad_records.count} bad records were skipped)" if bad_records.count else ""
        raise CorpusError(
            f"{bad_records.field}.source: {_shown(corpus)} holds no documents{skipped}; name files "
            "with text in them"
        )


def find_files(corpus: CorpusConfig, field: str = "data.corpus") -> list[SourceFile]:
    """Every file of a corpus, in reading order; empty for hub datasets.

    Raises:
        CorpusError: A source names nothing, or its format cannot be told.
    """
    _check_hub_fields(corpus, field)
    if corpus.format == "hub":
        return []
    return [f for source in _sources(corpus) for f in _files_of(source, corpus.format, field)]


def _documents(corpus: CorpusConfig, bad_records: BadRecords) -> Iterator[Document]:
    index = 0
    for record in read_records(corpus, bad_records.field):
        try:
            if isinstance(record.columns, BadRecord):
                raise record.columns
            content = content_of(record.columns, corpus.columns)
            group = group_of(record.columns, corpus.columns)
            of_slice = slice_of(record.columns, corpus.columns)
        except BadRecord as bad:
            bad_records.report(record.place, str(bad), record.excerpt)
            continue
        yield Document(index if group is None else group, record.place, content, of_slice)
        index += 1


def read_records(corpus: CorpusConfig, field: str) -> Iterator[formats.Record]:
    """Yield every record of a corpus, bad ones too, files in the order of their names."""
    files = find_files(corpus, field)
    if corpus.format == "hub":
        for name in _sources(corpus):
            yield from formats.read_hub(name, corpus)
    for file in files:
        yield from _READERS[file.format](file.path, corpus)


def _files_of(source: str, wanted: CorpusFormat, field: str) -> list[SourceFile]:
    pattern = (
        resolve_package_path(source, CorpusError)
        if is_package_reference(source)
        else Path(source).expanduser()
    )
    files: list[SourceFile] = []
    for path in _matches(pattern, source, field):
        files += (
            _in_directory(path, wanted, field)
            if path.is_dir()
            else [SourceFile(path, _format_of(path, wanted, field))]
        )
    return files


def _matches(pattern: Path, source: str, field: str) -> list[Path]:
    if pattern.exists():  # before globbing: a real name may hold a bracket
        return [pattern]
    if not glob.has_magic(str(pattern)):
        raise CorpusError(
            f"{field}.source: {source!r}: no such file or directory (looked at "
            f"{pattern.absolute()}); for a dataset on the hub set `format: hub`"
        )
    names = glob.iglob(str(pattern), recursive=True)  # noqa: PTH207 - the pattern may be absolute
    found = [Path(name) for name in names]
    saved = [path for path in found if path.is_dir() and _is_saved_dataset(path)]
    matched = [path for path in found if path.is_file()] + saved
    if not matched:
        raise CorpusError(
            f"{field}.source: {source!r} matches no file (looked at {pattern.absolute()})"
        )
    return sorted(matched)


def _in_directory(path: Path, wanted: CorpusFormat, field: str) -> list[SourceFile]:
    if wanted == "datasets" or (wanted == "auto" and _is_saved_dataset(path)):
        return [SourceFile(path, "datasets")]
    files = [
        SourceFile(inner, ENDINGS[inner.suffix.lower()])
        for inner in sorted(path.rglob("*"))
        if inner.is_file()
        and not inner.name.startswith(".")
        and ENDINGS.get(inner.suffix.lower())
        in (ENDINGS.values() if wanted == "auto" else [wanted])
    ]
    if not files:
        endings = [end for end, form in ENDINGS.items() if wanted in ("auto", form)]
        raise CorpusError(
            f"{field}.source: the directory {path} holds no file ending in {', '.join(endings)}"
        )
    return files


def _format_of(path: Path, wanted: CorpusFormat, field: str) -> CorpusFormat:
    if wanted == "datasets":
        raise CorpusError(f"{path}: `format: datasets` reads a directory; this is a file")
    if wanted != "auto":
        return wanted
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        raise CorpusError(
            f"{path}: cannot tell the format from the ending {path.suffix!r} (known: "
            f"{', '.join(ENDINGS)}); set {field}.format to jsonl, parquet, text or python"
        ) from None


def _check_hub_fields(corpus: CorpusConfig, field: str) -> None:
    for name in ("subset", "revision"):
        if getattr(corpus, name) is not None and corpus.format != "hub":
            raise CorpusError(
                f"{field}.{name}: only hub datasets have one; set `format: hub` or remove it"
            )


def _is_saved_dataset(path: Path) -> bool:
    return any((path / mark).is_file() for mark in SAVED_DATASET_MARKS)


def _sources(corpus: CorpusConfig) -> list[str]:
    return [corpus.source] if isinstance(corpus.source, str) else list(corpus.source)


def _shown(corpus: CorpusConfig) -> str:
    return ", ".join(repr(source) for source in _sources(corpus)) or "an empty list"
