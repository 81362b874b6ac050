"""YAML files as plain values, with the line of every key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raykd.errors import JobError

KeyPath = tuple[str | int, ...]

MAX_NODES = 200_000
"""Keys and values of one document; an alias inside an alias can make billions of a few lines."""
MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """One YAML document.

    Attributes:
        tree: Its values.
        lines: The line of each key and item, from 1.
        first_line: Where it begins.
    """

    tree: Any
    lines: dict[KeyPath, int]
    first_line: int

    def line(self, *path: str | int) -> int:
        """The line of `path`, or of the nearest thing around it that is written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return self.first_line


def mapping(value: Any) -> Mapping[Any, Any]:
    """A mapping as it is; anything else counts as empty (the schema names it)."""
    return value if isinstance(value, Mapping) else {}


def listing(value: Any) -> list[Any]:
    """A list as it is; anything else counts as empty (the schema names it)."""
    return value if isinstance(value, list) else []


def read_documents(path: Path) -> list[Document]:
    """Read all documents of a YAML file; empty ones are left out.

    Raises:
        JobError: The file is missing, no text, no YAML or empty, or gives a key twice.
    """
    text = read_text(path)
    try:
        documents = list(_parse(text, path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or str(error)
        template = "; it looks like a template: render it first" if "{{" in text else ""
        raise JobError(f"{place}: not valid YAML: {problem}{template}") from None
    if not documents:
        raise JobError(f"{path}: empty; a cluster file describes machines")
    return documents


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        JobError: It is missing, a directory, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: no such cluster file") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not UTF-8 at byte {error.start}; a cluster file is YAML") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(text: str, path: Path) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            lines: dict[KeyPath, int] = {}
            # Before the values are made: that merges `<<` into the nodes.
            _walk(node, (), lines, path)
            tree = loader.construct_document(node)
            if tree is not None:
                yield Document(tree, lines, node.start_mark.line + 1)
    finally:
        loader.dispose()


def _walk(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], path: Path) -> None:
    if len(lines) > MAX_NODES:
        raise JobError(f"{path}: more than {MAX_NODES:,} values; an alias repeats itself")
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*at, i), lines, path)
    elif isinstance(node, yaml.MappingNode):
        _walk_mapping(node, at, lines, path)


def _walk_mapping(
    node: yaml.MappingNode, at: KeyPath, lines: dict[KeyPath, int], path: Path
) -> None:
    seen: set[str] = set()
    merged = [value for key, value in node.value if key.tag == MERGE]
    for key, value in node.value:
        if key.tag == MERGE:
            continue
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            template = "; it looks like a template: render it first" if value.value == "" else ""
            raise JobError(f"{path}:{line}: a key has to be a word{template}")
        if str(key.value) in seen:
            raise JobError(f"{path}:{line}: {key.value!r} is given twice; keep one")
        seen.add(str(key.value))
        lines.setdefault((*at, key.value), line)
        _walk(value, (*at, key.value), lines, path)
    for value in merged:
        for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            _walk(each, at, lines, path)
