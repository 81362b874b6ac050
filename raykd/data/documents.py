"""A document, what makes a record one, and what happens to a record that is none."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Final

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
class Prompt:
    """A prompt whose completion is yet to be written; nothing of it is learned."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages of {role, content}; only the assistant's are learned.

    Of a message's content, the part that its key `unlearned` repeats is read and not learned.
    """

    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, or a pair, with what is known of it; `words` of a text whose words have labels."""

    text: str
    pair: str | None = None
    label: Any = None
    """As it was read; None where there is none."""
    words: tuple[str, ...] | None = None


Content = RunningText | PromptCompletion | Prompt | Chat | LabelledText
FOLDER: Final = "label_from_folder"
"""Key of a record that brings its folder's name as its label."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its number in the corpus (from 0, bad records not counted), place, content.

    Where the corpus has groups, the number is the group's.
    """

    index: int
    place: str
    content: Content
    slice: str | None = None
    """The slice of the data that it is of; None where the corpus names none."""


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
    if columns.prompt is not None:
        return Prompt(_text(record[columns.prompt], columns.prompt))
    assert columns.text is not None
    if columns.label is not None or columns.text_pair is not None or FOLDER in record:
        return _labelled(record, columns, columns.text)
    return RunningText(_text(record[columns.text], columns.text))


def _labelled(record: Mapping[str, Any], columns: ColumnsConfig, name: str) -> LabelledText:
    label = record.get(columns.label or FOLDER)
    found = record[name]
    if isinstance(found, list):
        words = tuple(_text(word, f"{name}[{i}]") for i, word in enumerate(found))
        return LabelledText(" ".join(words), None, label, words)
    other = columns.text_pair
    pair = None if other is None else _text(record[other], other)
    return LabelledText(_text(found, name), pair, label)


def group_of(record: Mapping[str, Any], columns: ColumnsConfig) -> int | None:
    """The number that documents which belong together have in common; None without groups.

    Raises:
        BadRecord: It is no whole number.
    """
    if columns.group is None:
        return None
    value = record[columns.group]
    if type(value) is not int or value < 0:
        raise BadRecord(
            f"column {columns.group!r} must be a whole number of at least 0; found {_kind(value)}"
        )
    return value


def slice_of(record: Mapping[str, Any], columns: ColumnsConfig) -> str | None:
    """The slice that a document is of; None without slices.

    Raises:
        BadRecord: It is no text.
    """
    return None if columns.slice is None else _text(record[columns.slice], columns.slice)


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
        if message.get("unlearned") is not None:
            _text(message["unlearned"], f"{column}[{number}].unlearned")
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
