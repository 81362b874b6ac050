from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import StorageError
from raykd.pipeline import lease
from raykd.pipeline.lease import FILE, Holder, held, read, take_turn

BEAT_S = 0.05
TURN = ".driver.lease.turn-"

HOLD = """
import sys, time
from pathlib import Path
from raykd.pipeline.lease import held
with held(Path(sys.argv[1]), print, beat_s=0.05):
    print("held", flush=True)
    time.sleep(60)
"""
RACE = """
import mmap, sys, time
from pathlib import Path
from raykd.errors import StorageError
from raykd.pipeline import lease
directory, meeting = Path(sys.argv[1]), sys.argv[2]
num_races, own = map(int, sys.argv[3:])
with open(meeting, "r+b") as file:
    arrived = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")
look = lease._require_over

def meet(directory, turn, beat_s):
    look(directory, turn, beat_s)
    if turn > 1:
        raise StorageError("the other has it")
    arrived[own] += 1
    while arrived[1 - own] < arrived[own]:
        time.sleep(0)

lease._require_over = meet
for number in range(num_races):
    try:
        turn = lease.take_turn(directory / str(number), lease.Holder.this_process(), 0.0)
        print(number, turn, flush=True)
    except StorageError:
        pass
"""


def refuse(error: StorageError) -> None:
    raise AssertionError(error)


def other_process(directory: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def turns(directory: Path) -> dict[int, Any]:
    """What the files of turns say."""
    files = directory.glob(f"{TURN}*")
    return {int(f.name.removeprefix(TURN)): json.loads(f.read_text() or "null") for f in files}


def dead_holder() -> Holder:
    """Of a process that was here and is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return replace(Holder.this_process(), pid=child.pid)


def leave(directory: Path, turn: int, holder: Holder | None) -> None:
    """As a driver leaves it that had this turn."""
    (directory / f"{TURN}{turn:08d}").write_text(json.dumps(asdict(holder)) if holder else "")


def test_a_lease_is_gone_after_the_run(tmp_path: Path) -> None:
    for turn in (1, 2):
        with held(tmp_path, refuse, BEAT_S):
            holder = read(tmp_path / FILE)
            assert holder is not None
            assert not holder.is_over
            assert turns(tmp_path)[turn]["owner"] == holder.owner
        assert [path.name for path in tmp_path.iterdir()] == [f"{TURN}{turn:08d}"]
        assert turns(tmp_path)[turn]["released"]


def test_a_living_driver_is_named_and_a_killed_one_is_not_waited_for(tmp_path: Path) -> None:
    child = other_process(tmp_path)
    try:
        with (
            pytest.raises(StorageError, match=f"is being run by process {child.pid}"),
            held(tmp_path, refuse, BEAT_S),
        ):
            pass
    finally:
        child.kill()
        child.communicate()
    started = time.monotonic()
    with held(tmp_path, refuse, beat_s=5):
        assert time.monotonic() - started < 5


def test_a_driver_of_another_machine_counts_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = other_process(tmp_path)
    # Its process id says nothing here, though both machines may have one name.
    monkeypatch.setattr(lease, "this_machine", lambda: "another")
    try:
        with pytest.raises(StorageError, match="--set name="), held(tmp_path, refuse, BEAT_S):
            pass
    finally:
        child.kill()
        child.communicate()
    started = time.monotonic()
    with held(tmp_path, refuse, BEAT_S):
        assert time.monotonic() - started >= lease.BEATS_MISSED * BEAT_S


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_clocks_do_not_matter(
    skew_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = time.time
    monkeypatch.setattr(lease, "this_machine", lambda: "another")
    with held(tmp_path, refuse, BEAT_S):
        monkeypatch.setattr(time, "time", lambda: plain() + skew_s)
        monkeypatch.setattr(lease, "this_machine", lambda: "a third")
        with pytest.raises(StorageError, match="is being run by"), held(tmp_path, refuse, BEAT_S):
            pass
    with held(tmp_path, refuse, BEAT_S):
        assert max(turns(tmp_path)) == 2


def test_who_lost_the_lease_is_told_once_and_leaves_it(tmp_path: Path) -> None:
    told: list[StorageError] = []
    taker = Holder("them", "elsewhere", 7)
    with held(tmp_path, told.append, BEAT_S):
        leave(tmp_path, 2, taker)
        lease._write(tmp_path / FILE, taker)
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(BEAT_S)
        time.sleep(3 * BEAT_S)
    assert [str(error) for error in told] == [
        f"{tmp_path} was taken over by process 7 on elsewhere"
    ]
    assert read(tmp_path / FILE) == taker
    assert not turns(tmp_path)[2]["released"]


@pytest.mark.parametrize("left", ["", "{}", "[1]", "not JSON"])
def test_what_says_nothing_is_nobodys(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE).write_text(left)
    assert read(tmp_path / FILE) is None
    with held(tmp_path, refuse, BEAT_S):
        assert read(tmp_path / FILE) is not None


def test_what_cannot_be_read_is_not_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("{}")

    def fail(*_: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(StorageError, match=r"driver\.lease: cannot be read"):
        take_turn(tmp_path, Holder("me", "here", 1), BEAT_S)


def test_a_driver_that_died_while_it_took_its_turn_is_waited_for_in_vain(tmp_path: Path) -> None:
    leave(tmp_path, 3, None)
    started = time.monotonic()
    assert take_turn(tmp_path, Holder.this_process(), BEAT_S) == 4
    assert time.monotonic() - started >= lease.BEATS_MISSED * BEAT_S


def test_a_driver_that_is_just_taking_its_turn_has_the_run(tmp_path: Path) -> None:
    leave(tmp_path, 3, None)
    writes = threading.Timer(BEAT_S, leave, (tmp_path, 3, Holder("them", "elsewhere", 7)))
    writes.start()
    with pytest.raises(StorageError, match="is being run by process 7 on elsewhere"):
        take_turn(tmp_path, Holder.this_process(), 10 * BEAT_S)
    writes.join()


def test_who_slept_since_it_looked_gets_no_turn_of_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its file, another driver came, and one after it, who holds the run."""
    leave(tmp_path, 1, dead_holder())
    later = replace(Holder.this_process(), owner="later")
    beats = threading.Timer(BEAT_S, lease._write, (tmp_path / FILE, replace(later, beats=1)))
    plain = lease._made

    def made(directory: Path, turn: int, mine: Holder) -> bool:
        monkeypatch.setattr(lease, "_made", plain)
        leave(directory, turn + 1, later)
        (directory / f"{TURN}{turn - 1:08d}").unlink()
        beats.start()
        return plain(directory, turn, mine)

    monkeypatch.setattr(lease, "_made", made)
    with pytest.raises(StorageError, match="is being run by"):
        take_turn(tmp_path, Holder.this_process(), 10 * BEAT_S)
    beats.join()


def test_of_two_processes_that_find_a_dead_lease_one_has_it(tmp_path: Path) -> None:
    """Both have looked before either takes its turn, again and again."""
    num_races, dead = 150, dead_holder()
    for number in range(num_races):
        (tmp_path / str(number)).mkdir()
        leave(tmp_path / str(number), 1, dead)
        lease._write(tmp_path / str(number) / FILE, dead)
    meeting = tmp_path / "meeting"
    meeting.write_bytes(bytes(16))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(meeting), str(num_races), str(own)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in range(2)
    ]
    took = [racer.communicate(timeout=60)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    counts = Counter(took[0] + took[1])
    assert counts == dict.fromkeys([f"{n} 2" for n in range(num_races)], 1)
    assert min(map(len, took)) > 0, "both were quicker at times"
