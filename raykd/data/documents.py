"""A document, what makes a record one, and what happens to a record that is none."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from raykd.config.corpus import ColumnsConfig, CorpusConfig
from raykd.errors import CorpusError, StorageError

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class RunningText:
    """Text in which every token is learned."""

    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt that is read and a completion that is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages of {role, content}; only the assistant's are learned."""

    messages: list[dict[str, Any]]


Content = RunningText | PromptCompletion | Chat


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its number in the corpus (from 0, bad records not counted), place, content."""

    index: int
    place: str
    content: Content


class BadRecord(Exception):
    """A record that cannot become a document; its reason is one clause without a full stop."""


@dataclass
class BadRecords:
    """Stops at a bad record, or counts it and writes it down, as the corpus says.

    Attributes:
        field: The corpus in the job file, for messages: `data.corpus`.
        skip: Go on after a bad record.
        side_file: Where skipped records are written, one JSON object a line; None writes nothing.
        count: Records skipped so far.
    """

    field: str = "data.corpus"
    skip: bool = False
    side_file: Path | None = None
    count: int = 0
    _start_bytes: int = dataclass_field(default=0, init=False)

    def __post_init__(self) -> None:
        """Remember where the side file ended, for `restart`."""
        if self.side_file is not None and self.side_file.exists():
            self._start_bytes = self.side_file.stat().st_size

    @classmethod
    def of(cls, corpus: CorpusConfig, field: str, side_file: Path | None) -> BadRecords:
        """The policy that `corpus` asks for."""
        return cls(field=field, skip=corpus.on_bad_record == "skip", side_file=side_file)

    def report(self, place: str, reason: str, excerpt: str) -> None:
        """Stop at, or note, one bad record.

        Raises:
            CorpusError: The corpus says to stop.
            StorageError: The side file cannot be written.
        """
        if not self.skip:
            raise CorpusError(
                f"{place}: {reason}. Mend the record, or set {self.field}.on_bad_record to `skip`"
            )
        self.count += 1
        if self.side_file is None:
            return
        line = {
            "corpus": self.field,
            "place": place,
            "reason": reason,
            "excerpt": excerpt[:EXCERPT_CHARACTERS],
        }
        try:
            with self.side_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(f"{self.side_file}: cannot be written ({error.strerror})") from error

    def restart(self) -> None:
        """Forget what was noted, because the corpus is read again from its start."""
        self.count = 0
        if self.side_file is not None and self.side_file.exists():
            with self.side_file.open("r+b") as file:
                file.truncate(self._start_bytes)


def content_of(record: Mapping[str, Any], columns: ColumnsConfig) -> Content:
    """Take the chosen columns out of one record.

    Raises:
        BadRecord: A column is missing, or holds something other than text (or messages).
    """
    for name in columns.names:
        if name not in record:
            raise BadRecord(missing_column(name, list(record)))
    if columns.messages is not None:
        return Chat(_messages(record[columns.messages], columns.messages))
    if columns.prompt is not None and columns.completion is not None:
        return PromptCompletion(
            _text(record[columns.prompt], columns.prompt),
            _text(record[columns.completion], columns.completion),
        )
    assert columns.text is not None
    return RunningText(_text(record[columns.text], columns.text))


def missing_column(name: str, present: list[str]) -> str:
    """Say that a column is not there, which ones are, and which is nearest."""
    close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(repr(column) for column in present[:20]) or "none"
    return f"no column {name!r} (columns here: {shown}){hint}"


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"column {column!r} must be text; found {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRecord(
                f"column {column!r} holds half of a surrogate pair at character {error.start}, "
                "which is not text"
            ) from None
    return value


def _messages(value: Any, column: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise BadRecord(
            f"column {column!r} must be a list of messages {{role, content}}; found {found}"
        )
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise BadRecord(
                f"column {column!r}, message {number}, must be a mapping {{role, content}}; found "
                f"{_kind(message)}"
            )
        for key in ("role", "content"):
            if key not in message:
                raise BadRecord(f"column {column!r}, message {number}, has no {key!r}")
            _text(message[key], f"{column}[{number}].{key}")
    return value


def _kind(value: Any) -> str:
    names = {
        "NoneType": "null",
        "int": "a whole number",
        "float": "a number",
        "bool": "true/false",
        "str": "text",
        "bytes": "bytes",
        "list": "a list",
        "dict": "a mapping",
    }
    return names.get(type(value).__name__, type(value).__name__)
