"""Every byte of a store looked at."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.errors import StoreError
from raykd.soft_targets.columns import Column
from raykd.store.entry import Entry, checksum, published_names, read_entry, shard_file
from raykd.store.piece_targets import fits, list_lengths
from raykd.store.place import Place
from raykd.store.section import SECTION_FILE
from raykd.store.sections import section_facts, section_names
from raykd.store.shard import KEY, keys_of, open_shard


@dataclass(frozen=True)
class Fault:
    """Something bad in a store.

    Attributes:
        section: The section's name.
        shard: The shard's name; None where the section itself is bad.
        path: The file.
        what: What is wrong with it.
    """

    section: str
    shard: str | None
    path: str
    what: str


@dataclass(frozen=True)
class Verified:
    """What `verify` looked at, and found.

    Attributes:
        sections: Sections looked at.
        shards: Published shards looked at.
        num_bytes: Bytes read of them.
        seconds: Time taken.
        faults: All that is bad, by section and shard.
    """

    sections: int
    shards: int
    num_bytes: int
    seconds: float
    faults: tuple[Fault, ...]


def verify(location: str, section: str | None = None, *, decode: bool = False) -> Verified:
    """Read every byte of every published shard and compare its checksum; decode all keys.

    Bytes that have the published checksum are those that the writer made. Their columns are decoded
    too in each shard's first and last row group, and in all of them with `decode`, which takes ten
    times as long and would show a writer that made something wrong.

    Args:
        location: The store: a path or a URI.
        section: One section's name; None is all.
        decode: Decode the columns of all row groups.

    Raises:
        StoreError: The location cannot be read, or has no such section.
    """
    began = time.monotonic()
    place = Place.at(location)
    names = chosen_sections(place, section)
    faults: list[Fault] = []
    shards = num_bytes = 0
    for name in names:
        results = _verify_section(place.within(name), name, decode)
        faults += [fault for _, fault in results if fault is not None]
        shards += sum(fault is None or fault.shard is not None for _, fault in results)
        num_bytes += sum(size for size, _ in results)
    return Verified(len(names), shards, num_bytes, time.monotonic() - began, tuple(faults))


def chosen_sections(place: Place, section: str | None) -> list[str]:
    """Names of all sections, or the one asked for.

    Raises:
        StoreError: It is not there; says which are.
    """
    names = section_names(place)
    if section is None:
        return names
    if section not in names:
        raise StoreError(
            f"{place}: has no section {section}; there are: {', '.join(names) or 'none'}"
        )
    return [section]


def _verify_section(place: Place, name: str, decode: bool) -> list[tuple[int, Fault | None]]:
    """Bytes read and what is wrong, for each shard; or one fault of the section."""
    try:
        columns = _columns(section_facts(place))
    except StoreError as error:
        return [(0, Fault(name, None, place.path(SECTION_FILE), str(error)))]

    def look(shard: str) -> tuple[int, Fault | None]:
        num_bytes, wrong = _verify_shard(place, shard, columns, decode)
        path = place.path(shard_file(shard))
        return num_bytes, None if wrong is None else Fault(name, shard, path, wrong)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(look, published_names(place)))


def _columns(facts: dict[str, Any]) -> list[Column]:
    """Of a section's codec, with names and widths; their types are the file's own."""
    try:
        return [
            Column(name, pa.null(), None if said["width"] is None else int(said["width"]))
            for name, said in facts["columns"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"its columns are not described ({type(error).__name__}: {error}); restore the file "
            "from a copy, or remove the section and have the teacher score again"
        ) from None


def _verify_shard(
    place: Place, name: str, columns: list[Column], decode: bool
) -> tuple[int, str | None]:
    """Bytes read, and what is wrong."""
    try:
        entry = read_entry(place, name)
        data = place.read(entry.shard)
    except StoreError as error:
        return 0, str(error)
    if data is None:
        return 0, "is published but missing"
    if len(data) != entry.num_bytes:
        return len(data), f"has {len(data):,} bytes, published are {entry.num_bytes:,}"
    if checksum(data) != entry.checksum:
        return len(data), "its bytes are not those that were published: the checksum differs"
    try:
        return len(data), _wrong_content(data, entry, columns, decode)
    except (OSError, pa.ArrowException) as error:
        return len(data), f"cannot be decoded: {str(error).strip()}"


def _wrong_content(data: bytes, entry: Entry, columns: list[Column], decode: bool) -> str | None:
    """What is wrong with what decodes."""
    file = open_shard(pa.BufferReader(data))
    if file.schema_arrow.names != [KEY, *(column.name for column in columns)]:
        return f"its columns are others: {', '.join(file.schema_arrow.names)}"
    if file.metadata.num_rows != entry.pieces:
        return f"holds {file.metadata.num_rows:,} pieces, published are {entry.pieces:,}"
    keys = keys_of(file.read([KEY], use_threads=False))
    if not np.array_equal(keys, entry.keys):
        return "its keys are not the published ones"
    last = file.num_row_groups - 1
    groups = range(last + 1) if decode else sorted({0, last} - {-1})
    tokens = 0
    for group in groups:
        of_group = _tokens(file.read_row_group(group, use_threads=False), columns)
        if of_group is None:
            return f"row group {group}: lists of a piece do not fit each other"
        tokens += of_group
    if len(groups) == last + 1 and tokens != entry.tokens:
        return f"holds {tokens:,} learned tokens, published are {entry.tokens:,}"
    return None


def _tokens(table: pa.Table, columns: list[Column]) -> int | None:
    """Learned tokens of all pieces; None where lists of one piece are not equally long."""
    width = columns[0].width
    assert width is not None, "the first column is fixed"
    tokens_P = list_lengths(table, columns[0]) // width
    return int(tokens_P.sum()) if fits(tokens_P, table, columns).all() else None
