"""A file on this machine's own file tree, whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_by_rename(path: Path, data: bytes) -> None:
    """Put a file in place whole: written beside it, made durable, renamed.

    Raises:
        OSError: It could not be written; nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        with open_to_write(aside) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def open_to_write(path: Path) -> BinaryIO:
    """A new local file."""
    return path.open("xb")


def _sync_directory(directory: Path) -> None:
    # Some network filesystems refuse it; the rename has happened all the same.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
