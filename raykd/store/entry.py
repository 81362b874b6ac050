"""A shard's published entry: a shard without one does not exist.

It carries the shard's keys too, so that opening a store reads one small file a shard, and never the
shards themselves: on an object store their keys lie in a hundred places each.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from raykd.errors import StoreError
from raykd.store.pieces import KEY_BYTES, Keys, keys_from_bytes, keys_to_bytes
from raykd.store.place import Place

PUBLISHED: Final = "published"
SHARDS: Final = "shards"
_SUFFIX: Final = ".json"
_READERS: Final = 16


@dataclass(frozen=True, eq=False)
class Entry:
    """What is published of a shard.

    Attributes:
        name: The shard's, without ending.
        tokens: Learned tokens in it.
        num_bytes: Size of its file.
        checksum: `checksum` of its file.
        written_s: When it was published, seconds since 1970.
        keys: uint64 [P, 2]; of its pieces, in the file's order.
    """

    name: str
    tokens: int
    num_bytes: int
    checksum: str
    written_s: float
    keys: Keys

    @property
    def pieces(self) -> int:
        """P."""
        return len(self.keys)

    @property
    def shard(self) -> str:
        """The shard's file, within its section."""
        return shard_file(self.name)

    @property
    def file(self) -> str:
        """The entry's file, within its section."""
        return f"{PUBLISHED}/{self.name}{_SUFFIX}"

    def to_bytes(self) -> bytes:
        """As it lies in its file."""
        facts = {
            "pieces": self.pieces,
            "tokens": self.tokens,
            "bytes": self.num_bytes,
            "checksum": self.checksum,
            "written_s": self.written_s,
            "keys": base64.b64encode(keys_to_bytes(self.keys)).decode(),
        }
        return json.dumps(facts).encode()

    @classmethod
    def of_bytes(cls, name: str, content: bytes, where: str) -> Entry:
        """Read what `to_bytes` wrote.

        Raises:
            StoreError: It is not that.
        """
        try:
            facts = json.loads(content)
            keys = base64.b64decode(facts["keys"], validate=True)
            if len(keys) != KEY_BYTES * facts["pieces"]:
                raise ValueError(f"{len(keys)} bytes of keys for {facts['pieces']} pieces")
            return cls(
                name,
                int(facts["tokens"]),
                int(facts["bytes"]),
                str(facts["checksum"]),
                float(facts["written_s"]),
                keys_from_bytes(keys),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{where}: is no entry of a shard ({type(error).__name__}: {error}); "
                "`raykd store prune --bad` removes it with its shard"
            ) from None


def new_name(writer: str, sequence: int) -> str:
    """A shard's name: when, by whom, which; names sort by time.

    Args:
        writer: `new_writer()`.
        sequence: Number of the writer's shard, from 0.
    """
    return f"{int(time.time()):010d}-{writer}-{sequence:06d}"


def new_writer() -> str:
    """A name that no other writer has."""
    return uuid.uuid4().hex[:16]


def shard_file(name: str) -> str:
    """The file of a shard within its section."""
    return f"{SHARDS}/{name}.parquet"


def checksum(data: bytes) -> str:
    """Of a file's bytes."""
    return f"blake2b:{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def published_names(place: Place) -> list[str]:
    """Names of the shards that a section has published, oldest first."""
    names = place.files(PUBLISHED)
    return sorted(
        name.removesuffix(_SUFFIX)
        for name in names
        if name.endswith(_SUFFIX) and not name.startswith(".")
    )


def read_entry(place: Place, name: str) -> Entry:
    """Read one entry of a section.

    Raises:
        StoreError: It cannot be read.
    """
    file = f"{PUBLISHED}/{name}{_SUFFIX}"
    content = place.read(file)
    if content is None:
        raise StoreError(
            f"{place.path(file)}: was there a moment ago and is gone; somebody prunes this "
            "section: start again once that is done"
        )
    return Entry.of_bytes(name, content, place.path(file))


def read_entries(place: Place, names: list[str]) -> list[Entry]:
    """Read entries of a section, many at once.

    Raises:
        StoreError: One cannot be read.
    """
    if len(names) <= 1:
        return [read_entry(place, name) for name in names]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda name: read_entry(place, name), names))
