"""Checksums of a checkpoint's files: each rank sums up what it wrote, any process can compare."""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from raykd.errors import StorageError

CHUNK_BYTES = 4 << 20
READERS = 8
_SUMS = ".sums-"
_WRITTEN_BY_RANK = re.compile(r"(?:pp_rank_|rng-)(\d+)")
"""DeepSpeed's shards and raykd's random states name the rank that wrote them."""


class Damaged(Exception):
    """A file is not as it was written; the message says which and how."""


@dataclass(frozen=True)
class FileSum:
    """What is known of a file's content."""

    bytes: int
    crc32: str


def seal(directory: Path, rank: int, num_ranks: int) -> None:
    """Bring the files that this rank wrote to the disk and leave their checksums beside them."""
    own = [name for name in _names(directory) if _writer(name, num_ranks) == rank]
    sums = {name: asdict(_sum(directory / name, sync=True)) for name in own}
    write_synced(directory / f"{_SUMS}{rank:05d}.json", json.dumps(sums))


def collect(directory: Path) -> dict[str, FileSum]:
    """The checksums of every file, with those that no rank has summed up; removes the ranks'."""
    sums: dict[str, FileSum] = {}
    for file in sorted(directory.glob(f"{_SUMS}*")):
        sums |= {name: FileSum(**one) for name, one in json.loads(file.read_text()).items()}
        file.unlink()
    for name in _names(directory):
        if name not in sums:
            sums[name] = _sum(directory / name, sync=True)
    return dict(sorted(sums.items()))


def sync_directories(directory: Path) -> None:
    """Bring the names in a directory and below it to the disk."""
    for below in [*(path for path in directory.rglob("*") if path.is_dir()), directory]:
        sync_directory(below)


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(file: Path, text: str) -> None:
    """Write a file and bring it to the disk."""
    with file.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def check_sizes(directory: Path, files: Mapping[str, FileSum]) -> None:
    """Compare names and sizes only.

    Raises:
        Damaged: A file is missing or has another size.
    """
    for name, expected in files.items():
        with reading(directory / name):
            size = (directory / name).stat().st_size
        if size != expected.bytes:
            raise Damaged(f"{name} has {size} bytes where {expected.bytes} were written")


def check_content(directory: Path, files: Mapping[str, FileSum]) -> None:
    """Read every byte.

    Raises:
        Damaged: A file is missing, cannot be read or holds something else.
    """
    check_sizes(directory, files)
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="verify") as pool:
        found = pool.map(lambda name: _sum_again(directory / name), files)
        for name, actual in zip(files, found, strict=True):
            if actual != files[name]:
                raise Damaged(f"{name} has other content than was written (checksum)")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What fails within, told of the file: its own fault, or that of the way to it.

    Raises:
        Damaged: It is missing, or the disk cannot read it.
        StorageError: It may be good, but cannot be reached or opened.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Damaged(f"{file.name} is missing") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise Damaged(f"{file.name} cannot be read ({error.strerror})") from None
        raise StorageError(f"{file}: cannot be read ({error.strerror})") from None


def _sum_again(file: Path) -> FileSum:
    with reading(file):
        return _sum(file)


def _sum(path: Path, sync: bool = False) -> FileSum:
    size = checksum = 0
    with path.open("rb", buffering=0) as file:
        if sync:
            os.fsync(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return FileSum(size, f"{checksum:08x}")


def _names(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith(_SUMS):
            yield path.relative_to(directory).as_posix()


def _writer(name: str, num_ranks: int) -> int:
    named = _WRITTEN_BY_RANK.search(name)
    rank = int(named[1]) if named else 0
    return rank if rank < num_ranks else 0
