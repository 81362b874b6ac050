"""The metrics file: one JSON line a step, written by rank 0, read while it grows."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from raykd.errors import RunError, StorageError
from raykd.telemetry.metrics import StepMetrics


class MetricsWriter:
    """Appends steps; on resume, first drops what the checkpoint does not hold.

    Args:
        path: The metrics file; its directory exists.
        resume_step: The checkpoint's step; lines past it are dropped. 0 begins anew.

    Raises:
        RunError: A line up to `resume_step` is malformed.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self._last_step = resume_step
        try:
            if path.exists():
                _keep_until(path, resume_step)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, metrics: StepMetrics) -> None:
        """Append one step, visible to readers at once.

        Raises:
            DivergenceError: A number is not finite; nothing is written.
        """
        assert metrics.step > self._last_step, (metrics.step, self._last_step)
        self._file.write(metrics.to_json() + "\n")
        self._file.flush()
        self._last_step = metrics.step

    def sync(self) -> None:
        """Bring all steps to the disk: a checkpoint must never be ahead of its metrics."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MetricsTail:
    """Reads what a metrics file gained since the last look.

    When a resume replaces the file, lines that were returned already are not returned again;
    steps that are learned anew are. Each returned line leaves a checksum of 8 bytes.

    Args:
        path: The metrics file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._identity = _identity(path)
        self._begun = 0
        self._returned = array("Q")
        self._line = 0

    @property
    def begun(self) -> int:
        """How often a writer has begun since this object was made, by the looks taken so far."""
        return self._begun

    def poll(self) -> list[StepMetrics]:
        """Whole lines that are new; a last line without its end is left for the next look.

        Raises:
            RunError: A whole line is malformed; the message has its number.
        """
        try:
            with self._path.open("rb") as file:
                self._notice_replacement(file)
                return list(self._new_steps(file))
        except FileNotFoundError:
            return []

    def _notice_replacement(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        self._begun += identity != self._identity
        if identity != self._identity or status.st_size < self._offset:
            self._identity, self._offset, self._line = identity, 0, 0

    def _new_steps(self, file: BinaryIO) -> Iterator[StepMetrics]:
        file.seek(self._offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            if not self._known(line):
                yield _parse(line, self._path, self._line + 1)
            self._offset += len(line)
            self._line += 1

    def _known(self, line: bytes) -> bool:
        """Whether this very line was returned before; if not, forget all that followed it."""
        checksum = zlib.crc32(line) | len(line) << 32
        if self._line < len(self._returned):
            if self._returned[self._line] == checksum:
                return True
            del self._returned[self._line :]
        self._returned.append(checksum)
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def read_metrics(path: Path) -> list[StepMetrics]:
    """All steps of a metrics file; a torn last line, still being written, is left out.

    Raises:
        RunError: The file is missing, or a line is malformed; the message has its number.
    """
    try:
        return list(_steps(path))
    except FileNotFoundError:
        raise RunError(f"{path}: no such metrics file; the run has not begun to train") from None


def _steps(path: Path) -> Iterator[StepMetrics]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _parse(line, path, number)
            elif (last := _parse_or_none(line)) is not None:
                yield last


def _keep_until(path: Path, resume_step: int) -> None:
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        for metrics in _steps(path):
            if metrics.step > resume_step:
                break
            file.write(metrics.to_json() + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _parse(line: bytes, path: Path, number: int) -> StepMetrics:
    try:
        return StepMetrics.from_json(line)
    except ValueError as error:
        raise RunError(
            f"{path}:{number}: not a line of metrics: {error}; remove the line, or restore the "
            "file from a copy"
        ) from None


def _parse_or_none(line: bytes) -> StepMetrics | None:
    try:
        return StepMetrics.from_json(line)
    except ValueError:
        return None
