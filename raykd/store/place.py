"""A directory on any filesystem, in which a file appears whole or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from raykd.errors import StoreError
from raykd.store.local_files import write_by_rename

S3_ATTEMPTS: Final = 6
"""Of a request that is refused for the moment (503 and the like) or cut; with growing pauses, which
take about 15 s in all."""

_Result = TypeVar("_Result")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NEEDS_NO_DIRECTORY = ("s3", "gcs", "abfs")


@dataclass(frozen=True)
class FileFacts:
    """What a listing says of a file: its size, and when it was last written where that is known."""

    num_bytes: int
    written_s: float | None


class Place:
    """A directory; the names of its files are relative to it, with `/` between parts."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self._filesystem: Any = filesystem
        self._root = root.rstrip("/")
        self._is_local = isinstance(filesystem, fs.LocalFileSystem)

    @classmethod
    def at(cls, location: str) -> Place:
        """The directory that a path or a URI names.

        Raises:
            StoreError: No filesystem knows the URI, or a secret stands in it.
        """
        if "://" not in location:
            return cls(fs.LocalFileSystem(), str(Path(location).absolute()))
        _refuse_secrets(location)
        try:
            filesystem, root = fs.FileSystem.from_uri(location)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            filesystem, root = _by_fsspec(location)
        return cls(_patient(filesystem), root)

    def __str__(self) -> str:
        return self._root

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's own file tree."""
        return self._is_local

    def within(self, name: str) -> Place:
        """A directory of this one."""
        return Place(self._filesystem, self.path(name))

    def path(self, name: str) -> str:
        """A file's full path, for messages."""
        return f"{self._root}/{name}"

    def files(self, directory: str) -> dict[str, FileFacts]:
        """Names and facts of all files in a directory; none where there is no directory."""
        return {
            info.base_name: FileFacts(info.size, info.mtime_ns and info.mtime_ns / 1e9)
            for info in self._listed(directory)
            if info.type == fs.FileType.File
        }

    def directories(self) -> list[str]:
        """Names of the directories in this one, sorted."""
        return sorted(i.base_name for i in self._listed("") if i.type == fs.FileType.Directory)

    def _listed(self, directory: str) -> list[Any]:
        path = self.path(directory).rstrip("/")

        def listed() -> Any:
            return self._filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))

        found: list[Any] = _reading(path, listed)
        return found

    def read(self, name: str) -> bytes | None:
        """A file's content; None if it is not there.

        Raises:
            StoreError: It cannot be read.
        """

        def content() -> bytes | None:
            try:
                with self._filesystem.open_input_file(self.path(name)) as stream:
                    data: bytes = stream.read()
                    return data
            except FileNotFoundError:
                return None

        return _reading(self.path(name), content)

    def open(self, name: str) -> Any:
        """A file to read at random; raises OSError as the filesystem does."""
        return self._filesystem.open_input_file(self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place by one atomic step: a rename here, one upload on an object store.

        Raises:
            StoreError: It cannot be written, or the disk is full; nothing is left of it.
        """
        path = self.path(name)
        try:
            if self._is_local:
                write_by_rename(Path(path), data)
            else:
                self._upload(path, data)
        except OSError as error:
            raise StoreError(_why_not_written(path, error, len(data), self._is_local)) from error

    def _upload(self, path: str, data: bytes) -> None:
        if self._filesystem.type_name not in _NEEDS_NO_DIRECTORY:
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        if isinstance(self._filesystem, fs.PyFileSystem):
            # Not by a stream: fsspec's, closed after a failed write, publish what came before it.
            self._filesystem.handler.fs.pipe_file(path, data)
            return
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            StoreError: It cannot be removed.
        """
        try:
            with suppress(FileNotFoundError):
                self._filesystem.delete_file(self.path(name))
        except OSError as error:
            raise StoreError(f"{self.path(name)}: cannot be removed: {error}") from error

    def remove_directory(self, name: str) -> None:
        """Remove a directory with all in it; one that is not there is no error.

        Raises:
            StoreError: It cannot be removed.
        """
        try:
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(self.path(name))
        except OSError as error:
            raise StoreError(f"{self.path(name)}: cannot be removed: {error}") from error


def _patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same; S3 with retries of what it refuses for the moment, which a URI cannot ask for."""
    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem
    _, (options,) = filesystem.__reduce__()
    changed = {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        # A small file is one request, and not three.
        "allow_delayed_open": True,
    }
    return fs.S3FileSystem(**{**options, **changed})


def _refuse_secrets(location: str) -> None:
    """A store's location stands in job files, logs and messages."""
    parts = urlsplit(location)
    if parts.password is None:
        return
    raise StoreError(
        f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}: a secret stands in "
        "the location of the store; take it out, and give it by the environment "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://) or by the machine's own role"
    )


def _by_fsspec(location: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise StoreError(
            f"{location}: no filesystem for it ({error}); give a local path, or a URI that pyarrow "
            "or an installed fsspec package knows (s3://, gs://, abfs://, file://)"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(path)


def _reading(path: str, read: Callable[[], _Result]) -> _Result:
    try:
        return read()
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read: {error}; check that it is a store and that you may read it"
        ) from error


def _why_not_written(path: str, error: OSError, num_bytes: int, is_local: bool) -> str:
    if error.errno in _NO_SPACE:
        free = f", free are {_free_bytes(path)}" if is_local else ""
        return (
            f"{path}: no space left ({error.strerror}): {num_bytes:,} bytes are needed{free}; "
            "nothing of it was published. Free some space (`raykd store prune`) and go on with "
            "--resume, or choose another store"
        )
    return (
        f"{path}: cannot be written: {error}; choose a store that you may write, or read this one "
        "only"
    )


def _free_bytes(path: str) -> str:
    """On the disk of a file that is not there; its directory may not be there either."""
    for directory in Path(path).parents:
        with suppress(OSError):
            # A quota may be smaller than this; the system's own words stand beside it.
            return f"{shutil.disk_usage(directory).free:,} on this disk"
    return "unknown"
