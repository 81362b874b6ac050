"""What must hold before a section is used."""

from __future__ import annotations

import uuid
from contextlib import suppress

from raykd.errors import StoreError
from raykd.store.entry import PUBLISHED, SHARDS, Entry, published_names
from raykd.store.place import Place
from raykd.store.section import SECTION_FILE, Section


def check_section(place: Place, section: Section, *, begin: bool) -> None:
    """Refuse a directory that is not this section's.

    Args:
        place: The section's directory, which need not exist.
        section: What it has to hold.
        begin: Write `section.json` where nothing is there yet.

    Raises:
        StoreError: `section.json` is missing beside shards, unreadable, of a newer format or of
            another section; or it cannot be written.
    """
    # In this order: a writer puts section.json before it publishes its first shard.
    has_shards = bool(published_names(place))
    found, where = place.read(SECTION_FILE), place.path(SECTION_FILE)
    if found is not None:
        section.check(found, where)
    elif has_shards:
        raise StoreError(
            f"{where}: is missing, but shards are published beside it; restore it from a copy, or "
            f"remove {place} and have the teacher score again"
        )
    elif begin:
        place.write(SECTION_FILE, section.to_bytes())


def probe(place: Place) -> None:
    """Write a file and remove it.

    Raises:
        StoreError: It cannot be written.
    """
    name = f"{SHARDS}/.probe-{uuid.uuid4().hex[:8]}"
    place.write(name, b"raykd")
    with suppress(StoreError):
        place.remove(name)


def check_sizes(place: Place, entries: list[Entry]) -> None:
    """Compare the shards' files with what is published of them; reads one listing.

    Raises:
        StoreError: One is missing, or of another size.
    """
    sizes = {f"{SHARDS}/{name}": facts.num_bytes for name, facts in place.files(SHARDS).items()}
    for entry in entries:
        found = sizes.get(entry.shard)
        if found != entry.num_bytes:
            is_there = "is missing" if found is None else f"has {found:,} bytes"
            raise StoreError(
                f"{place.path(entry.shard)}: {is_there}, but {entry.num_bytes:,} bytes are "
                f"published in {PUBLISHED}/; `raykd store verify` looks at every shard, `raykd "
                "store prune --bad` removes the bad ones, and the teacher scores their rows again"
            )
