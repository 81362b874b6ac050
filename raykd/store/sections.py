"""What a store holds, section by section."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from raykd.errors import StoreError
from raykd.store.entry import PUBLISHED, SHARDS, published_names, read_entries
from raykd.store.place import Place
from raykd.store.section import SECTION_FILE, Section, read_facts

NAMED: Final = 4
"""Sections that a message tells of one by one."""


@dataclass(frozen=True)
class SectionSummary:
    """A section as its files describe it.

    Attributes:
        name: Its directory.
        teacher: Identity of the teacher; empty where `problem` says why.
        tokenizer: Identity of the tokenizer.
        codec: The codec and its options, in one line.
        shards: Published ones.
        pieces: In them; one that two writers stored counts twice.
        tokens: Learned tokens in them.
        num_bytes: Of the shards' files.
        written_s: When the newest was published, seconds since 1970; None without one.
        problem: Why the section cannot be read; None where it can.
    """

    name: str
    teacher: str = ""
    tokenizer: str = ""
    codec: str = ""
    shards: int = 0
    pieces: int = 0
    tokens: int = 0
    num_bytes: int = 0
    written_s: float | None = None
    problem: str | None = None


def sections(location: str) -> list[SectionSummary]:
    """List what a store holds, by name; one that cannot be read is listed with its problem.

    Args:
        location: The store: a path or a URI.

    Raises:
        StoreError: The location itself cannot be read.
    """
    place = Place.at(location)
    return [_summary(place.within(name), name) for name in section_names(place)]


def section_names(place: Place) -> list[str]:
    """Directories of a store that are sections; others are none of raykd's."""
    return [name for name in place.directories() if _is_section(place.within(name))]


def _is_section(place: Place) -> bool:
    return SECTION_FILE in place.files("") or {PUBLISHED, SHARDS} <= set(place.directories())


def section_facts(place: Place) -> dict[str, Any]:
    """What the section's own file says.

    Raises:
        StoreError: It is missing, unreadable or of a newer format.
    """
    where = place.path(SECTION_FILE)
    content = place.read(SECTION_FILE)
    if content is None:
        raise StoreError(
            f"{where}: is missing; restore it from a copy, or remove the section "
            "(`raykd store prune --section`) and have the teacher score again"
        )
    return read_facts(content, where)


def others(location: str, section: Section) -> str:
    """What a store holds beside a section, and what of each differs from it; for messages.

    Args:
        location: The store: a path or a URI.
        section: What is wanted.

    Raises:
        StoreError: The location itself cannot be read.
    """
    place = Place.at(location)
    names = [name for name in section_names(place) if name != section.name]
    told = [f"{name} ({_difference(place.within(name), section)})" for name in names[:NAMED]]
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return "; ".join(told + more) or "none"


def _difference(place: Place, section: Section) -> str:
    try:
        said, wanted = section_facts(place), section.facts
    except StoreError:
        return "cannot be read"
    named = [name for name in ("teacher", "tokenizer", "codec") if name in section.differing(said)]
    texts = [
        f"another {name}: {_one_line(said.get(name))}, wanted {_one_line(wanted[name])}"
        for name in named
    ]
    return "; ".join(texts) or "another version of the codec or of what it is made with"


def _summary(place: Place, name: str) -> SectionSummary:
    try:
        facts = section_facts(place)
        entries = read_entries(place, published_names(place))
    except StoreError as error:
        return SectionSummary(name, problem=str(error))
    return SectionSummary(
        name,
        teacher=str(facts.get("teacher")),
        tokenizer=str(facts.get("tokenizer")),
        codec=_one_line(facts.get("codec")),
        shards=len(entries),
        pieces=sum(entry.pieces for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        written_s=max((entry.written_s for entry in entries), default=None),
    )


def _one_line(codec: Any) -> str:
    if not isinstance(codec, dict):
        return str(codec)
    options = [f"{name} {json.dumps(value)}" for name, value in codec.items() if name != "codec"]
    return ", ".join([str(codec.get("codec")), *options]).replace('"', "")
