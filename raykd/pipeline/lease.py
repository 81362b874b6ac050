"""One driver a run: a lease in the run directory, kept alive by a heartbeat.

Clocks of different machines are never compared: a lease is alive if its file changes while one
looks. Taking over is one rename, and who took it last has it; the one before sees another's name
at its next beat and ends.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from raykd.errors import StorageError

BEAT_S: Final = 5.0
BEATS_MISSED: Final = 3
"""A lease that did not beat for so many beats is nobody's."""
FILE: Final = "driver.lease"


@dataclass(frozen=True)
class Holder:
    """Whose lease it is, and how often it beat."""

    owner: str
    host: str
    pid: int
    beats: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        """A holder that no other is equal to."""
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid())

    @property
    def told(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_surely_dead(self) -> bool:
        """Whether it was a process of this host that is gone."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def read(file: Path) -> Holder | None:
    """Who holds the lease; None where nobody does, or what is there says nothing."""
    try:
        return Holder(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(file: Path, holder: Holder) -> None:
    aside = file.with_name(f".{file.name}.{holder.owner}")
    aside.write_text(json.dumps(asdict(holder)) + "\n")
    aside.rename(file)


@contextmanager
def held(
    directory: Path, on_loss: Callable[[StorageError], None], beat_s: float = BEAT_S
) -> Iterator[None]:
    """Hold the run of `directory` while the body runs.

    Args:
        directory: Of the run; it exists.
        on_loss: Called once, from another thread, if someone else took the run meanwhile.
        beat_s: Seconds between beats.

    Raises:
        StorageError: A driver that is alive holds it; says which.
    """
    file = directory / FILE
    _require_dead(file, beat_s)
    mine = Holder.this_process()
    _write(file, mine)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, mine, ended, on_loss, beat_s), daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join(timeout=beat_s)
        found = read(file)
        if found is not None and found.owner == mine.owner:
            file.unlink(missing_ok=True)


def _require_dead(file: Path, beat_s: float) -> None:
    before = read(file)
    if before is None or before.is_surely_dead:
        return
    deadline = time.monotonic() + BEATS_MISSED * beat_s
    while time.monotonic() < deadline:
        time.sleep(min(0.25, beat_s / 4))
        now = read(file)
        if now is None:
            return
        if now != before:
            raise StorageError(
                f"{file.parent} is being run by {now.told}: wait for it or stop it, or give this "
                "run another name (--set name=OTHER)"
            )


def _beat(
    file: Path,
    mine: Holder,
    ended: threading.Event,
    on_loss: Callable[[StorageError], None],
    beat_s: float,
) -> None:
    beats = 0
    while not ended.wait(beat_s):
        found = read(file)
        if found is not None and found.owner != mine.owner:
            on_loss(StorageError(f"{file.parent} was taken over by {found.told}"))
            return
        beats += 1
        try:
            _write(file, Holder(mine.owner, mine.host, mine.pid, beats))
        except OSError:
            # Storage that stalls is no reason to end; who waits looks for several beats.
            continue
