"""Removing what nobody needs: leftovers, whole sections, bad shards.

Entries go before their shards, so that whoever opens the store meanwhile sees a shard whole or not
at all. A run that has the store open does not see it: prune sections that nothing reads.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from raykd.errors import StoreError
from raykd.store.entry import PUBLISHED, SHARDS, published_names, read_entries, shard_file
from raykd.store.place import FileFacts, Place
from raykd.store.section import SECTION_FILE
from raykd.store.verify import chosen_sections, verify

LEFTOVER_S: Final = 3600.0
"""What is not published an hour after it was written never will be."""

_ASIDE: Final = re.compile(r"^\.(.*\.writing|probe-[0-9a-f]+)$")
_NAMED_AT: Final = re.compile(r"^\.?(\d{10,})-[0-9a-f]+-\d+\.")


@dataclass(frozen=True)
class Removal:
    """Something removed, or to be removed.

    Attributes:
        kind: A file that was never published, a whole section, or a shard found bad.
        section: The section's name.
        path: The file or directory.
        num_bytes: What it took.
        why: In a few words.
    """

    kind: Literal["leftover", "section", "shard"]
    section: str
    path: str
    num_bytes: int
    why: str


def prune(
    location: str,
    *,
    older_than_s: float | None = None,
    section: str | None = None,
    bad: bool = False,
    dry_run: bool = False,
) -> list[Removal]:
    """Remove leftovers of writers that ended, and what else is asked for.

    Args:
        location: The store: a path or a URI.
        older_than_s: Remove whole sections whose newest shard is older; of these only `section`,
            if both are given.
        section: Remove this whole section, if `older_than_s` and `bad` are not given; else look at
            this one only.
        bad: Remove the shards that `verify` calls bad, with their entries.
        dry_run: Only say what would be removed.

    Returns:
        What was removed.

    Raises:
        StoreError: There is no such section, or something cannot be read or removed.
    """
    place = Place.at(location)
    whole = section is not None and older_than_s is None and not bad
    removed: list[Removal] = []
    for name in chosen_sections(place, section):
        here = place.within(name)
        removal = _whole(here, name, 0.0 if whole else older_than_s, is_named=whole)
        if removal is not None:
            if not dry_run:
                _remove_section(place, name)
            removed.append(removal)
            continue
        if bad:
            removed += _bad_shards(location, here, name, dry_run)
        removed += _leftovers(here, name, dry_run)
    return removed


def _whole(
    place: Place, name: str, older_than_s: float | None, *, is_named: bool
) -> Removal | None:
    """The removal of a whole section, if it is wanted."""
    if older_than_s is None:
        return None
    num_bytes = sum(facts.num_bytes for facts in place.files(SHARDS).values())
    if is_named:
        return Removal("section", name, str(place), num_bytes, "asked for")
    # One that cannot be read has no age, and goes by its name only.
    try:
        entries = read_entries(place, published_names(place))
    except StoreError:
        return None
    newest_s = max((entry.written_s for entry in entries), default=None)
    if newest_s is None or time.time() - newest_s <= older_than_s:
        return None
    days = (time.time() - newest_s) / 86400
    return Removal("section", name, str(place), num_bytes, f"last written {days:.1f} days ago")


def _remove_section(store: Place, name: str) -> None:
    place = store.within(name)
    for shard in published_names(place):
        place.remove(f"{PUBLISHED}/{shard}.json")
    place.remove(SECTION_FILE)
    store.remove_directory(name)


def _bad_shards(location: str, place: Place, name: str, dry_run: bool) -> list[Removal]:
    sizes = place.files(SHARDS)
    removed = []
    for fault in verify(location, name).faults:
        if fault.shard is None:
            continue
        if not dry_run:
            place.remove(f"{PUBLISHED}/{fault.shard}.json")
            place.remove(shard_file(fault.shard))
        facts = sizes.get(shard_file(fault.shard).removeprefix(f"{SHARDS}/"))
        size = 0 if facts is None else facts.num_bytes
        removed.append(Removal("shard", name, fault.path, size, fault.what))
    return removed


def _leftovers(place: Place, name: str, dry_run: bool) -> list[Removal]:
    removed = []
    now_s: float | None = None
    for file, facts in _unpublished(place):
        now_s = now_s or _now_s(place, dry_run)
        age_s = _age_s(file.rpartition("/")[2], facts, now_s)
        if age_s is None or age_s <= LEFTOVER_S:
            continue
        if not dry_run:
            place.remove(file)
        why = f"never published, {age_s / 3600:.1f} hours old"
        removed.append(Removal("leftover", name, place.path(file), facts.num_bytes, why))
    return removed


def _unpublished(place: Place) -> Iterator[tuple[str, FileFacts]]:
    """Files that were begun, and shards without an entry; none that raykd did not write."""
    shards = place.files(SHARDS)
    # After the shards: one that is published meanwhile must be found so.
    published = set(published_names(place))
    for file, facts in shards.items():
        is_shard = file.endswith(".parquet") and _NAMED_AT.match(file)
        is_lost = is_shard and file.removesuffix(".parquet") not in published
        if _ASIDE.match(file) or (is_lost and not file.startswith(".")):
            yield f"{SHARDS}/{file}", facts
    for directory in (PUBLISHED, ""):
        for file, facts in place.files(directory).items():
            if _ASIDE.match(file):
                yield f"{directory}/{file}".lstrip("/"), facts


def _now_s(place: Place, dry_run: bool) -> float:
    """By the clock that dates the files: another machine's may be an hour off."""
    name = f".probe-{uuid.uuid4().hex}"
    try:
        place.write(name, b"")
    except StoreError:
        if dry_run:
            return time.time()
        raise
    written_s = place.files("")[name].written_s
    place.remove(name)
    return written_s or time.time()


def _age_s(file: str, facts: FileFacts, now_s: float) -> float | None:
    """By the file's own time, else by its name; None where neither tells."""
    named = _NAMED_AT.match(file)
    written_s = facts.written_s or (float(named[1]) if named else None)
    return None if written_s is None else now_s - written_s
