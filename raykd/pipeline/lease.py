"""One driver a run: a lease in the run directory, kept alive by a heartbeat.

Clocks of different machines are never compared: a lease is alive if its files change while one
looks.

Every driver that holds the run takes a turn first: it makes a file whose name is the next number,
which the file system lets only one process do. Whoever made the highest number has the run. That
file stays when the run ends, so that a driver that looked and then slept does not make it again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from raykd.errors import StorageError

BEAT_S: Final = 5.0
BEATS_MISSED: Final = 3
"""A lease that did not beat for so many beats is nobody's."""
FILE: Final = "driver.lease"
"""Who holds the run; written anew at every beat, and gone when the run has ended."""
_TURN: Final = f".{FILE}.turn-"
_NUMBER: Final = re.compile(re.escape(_TURN) + r"(\d{8,})")


@dataclass(frozen=True)
class Holder:
    """Whose lease it is, and how often it beat."""

    owner: str
    host: str
    pid: int
    beats: int = 0
    machine: str = ""
    """Where the process id means something; see `this_machine`."""
    released: bool = False
    """Its run has ended: nobody waits for it."""

    @classmethod
    def this_process(cls) -> Holder:
        """A holder that no other is equal to."""
        return cls(uuid.uuid4().hex, socket.gethostname(), os.getpid(), machine=this_machine())

    @property
    def told(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_over(self) -> bool:
        """Whether it let go, or was a process of this machine that is gone."""
        if self.released:
            return True
        if not self.machine or self.machine != this_machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def this_machine() -> str:
    """This boot and this namespace of process ids; empty where neither is known.

    A host's name would not do: containers may share it, and see no process of each other.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def read(file: Path) -> Holder | None:
    """Who holds the lease; None where nobody does, or what is there says nothing.

    Raises:
        StorageError: It cannot be read, which says nothing about its holder.
    """
    while True:
        try:
            return Holder(**json.loads(file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        except OSError as error:
            # NFS says so of a file that was replaced while it was being opened.
            if error.errno != errno.ESTALE:
                raise StorageError(f"{file}: cannot be read ({error.strerror})") from None


def _write(file: Path, holder: Holder) -> None:
    aside = file.with_name(f".{FILE}.{holder.owner}")
    aside.write_text(_line(holder))
    aside.rename(file)


def _line(holder: Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


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
    mine = Holder.this_process()
    turn = take_turn(directory, mine, beat_s)
    _write(directory / FILE, mine)
    # It may have slept so long before this that it was taken for dead.
    if (taker := _next_taker(directory, turn)) is not None:
        raise _taken_over(directory, taker)
    ended = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(directory, turn, mine, ended, on_loss, beat_s), daemon=True
    )
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join(timeout=beat_s)
        _release(directory, turn, mine)


def take_turn(directory: Path, mine: Holder, beat_s: float = BEAT_S) -> int:
    """Take the turn after the last one, once nobody holds that.

    Returns:
        Its number; no other process ever has it.

    Raises:
        StorageError: A driver that is alive holds the run; says which.
    """
    while True:
        turn = _newest_turn(directory)
        _require_over(directory, turn, beat_s)
        if _made(directory, turn + 1, mine):
            return turn + 1
        # Another was quicker, and is looked at now.


def _made(directory: Path, turn: int, mine: Holder) -> bool:
    """Make the file of a turn; False if another did, or has made a later one."""
    try:
        with _turn_file(directory, turn).open("x") as out:
            out.write(_line(mine))
    except FileExistsError:
        return False
    numbers = _turns(directory)
    # Only the highest is never removed: whoever slept since it looked can make a lower one again.
    if max(numbers) > turn:
        return False
    for number in numbers:
        if number < turn:
            _turn_file(directory, number).unlink(missing_ok=True)
    return True


def _turn_file(directory: Path, turn: int) -> Path:
    return directory / f"{_TURN}{turn:08d}"


def _turns(directory: Path) -> list[int]:
    found = (_NUMBER.fullmatch(path.name) for path in directory.iterdir())
    return [int(one[1]) for one in found if one]


def _newest_turn(directory: Path) -> int:
    """The highest number; 0 before the first turn."""
    return max(_turns(directory), default=0)


def _next_taker(directory: Path, turn: int) -> str | None:
    """Who made a later turn, in words."""
    newest = _newest_turn(directory)
    if newest <= turn:
        return None
    taker = read(_turn_file(directory, newest))
    return taker.told if taker else "another driver"


def _taken_over(directory: Path, taker: str) -> StorageError:
    return StorageError(f"{directory} was taken over by {taker}")


@dataclass(frozen=True)
class _Signs:
    """What a driver leaves as long as it lives; equal if nobody gave a sign in between."""

    turn: int
    taker: Holder | None
    beating: Holder | None

    @classmethod
    def now(cls, directory: Path, turn: int) -> _Signs:
        taker = read(_turn_file(directory, turn)) if turn else None
        return cls(turn, taker, read(directory / FILE))

    @property
    def are_of_nobody(self) -> bool:
        """Whether the run is surely free."""
        # A turn's file that says nothing yet is being written.
        if self.turn and (self.taker is None or not self.taker.is_over):
            return False
        if self.beating is None or self.beating.is_over:
            return True
        return self.taker is not None and self.taker.owner == self.beating.owner

    @property
    def told(self) -> str:
        """Who lives, for messages."""
        living = [one for one in (self.taker, self.beating) if one is not None and not one.is_over]
        return living[0].told if living else "another driver"


def _require_over(directory: Path, turn: int, beat_s: float) -> None:
    """Return once the holder of a turn is over, or gave no sign for too long."""
    before = _Signs.now(directory, turn)
    deadline = time.monotonic() + BEATS_MISSED * beat_s
    while not before.are_of_nobody and time.monotonic() < deadline:
        time.sleep(min(0.25, beat_s / 4))
        now = _Signs.now(directory, turn)
        if now != before and not now.are_of_nobody:
            raise StorageError(
                f"{directory} is being run by {now.told}: wait for it or stop it, or give this "
                "run another name (--set name=OTHER)"
            )
        before = now


def _beat(
    directory: Path,
    turn: int,
    mine: Holder,
    ended: threading.Event,
    on_loss: Callable[[StorageError], None],
    beat_s: float,
) -> None:
    beats = 0
    while not ended.wait(beat_s):
        # Storage that stalls is no reason to end; who waits looks for several beats.
        with suppress(OSError, StorageError):
            if (taker := _next_taker(directory, turn)) is not None:
                on_loss(_taken_over(directory, taker))
                return
            beats += 1
            _write(directory / FILE, replace(mine, beats=beats))


def _release(directory: Path, turn: int, mine: Holder) -> None:
    """Say that nobody has to wait; where that fails, the next driver waits for a beat in vain."""
    with suppress(OSError, StorageError):
        if _newest_turn(directory) != turn:
            return
        _write(_turn_file(directory, turn), replace(mine, released=True))
        found = read(directory / FILE)
        if found is not None and found.owner == mine.owner:
            (directory / FILE).unlink(missing_ok=True)
