from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.errors import StorageError
from raykd.pipeline import lease
from raykd.pipeline.lease import FILE, Holder, held, read

BEAT_S = 0.05

HOLD = """
import sys, time
from pathlib import Path
from raykd.pipeline.lease import held
with held(Path(sys.argv[1]), print, beat_s=0.05):
    print("held", flush=True)
    time.sleep(60)
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


def test_a_lease_is_gone_after_the_run(tmp_path: Path) -> None:
    with held(tmp_path, refuse, BEAT_S):
        holder = read(tmp_path / FILE)
        assert holder is not None
        assert not holder.is_surely_dead
    assert list(tmp_path.iterdir()) == []


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
    with held(tmp_path, refuse, BEAT_S):
        pass


def test_a_driver_of_another_host_counts_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = other_process(tmp_path)
    # Its process id says nothing here.
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "another")
    try:
        with pytest.raises(StorageError, match="--set name="), held(tmp_path, refuse, BEAT_S):
            pass
    finally:
        child.kill()
        child.communicate()
    started = time.monotonic()
    with held(tmp_path, refuse, BEAT_S):
        assert time.monotonic() - started >= lease.BEATS_MISSED * BEAT_S


def test_who_lost_the_lease_is_told_once_and_leaves_it(tmp_path: Path) -> None:
    told: list[StorageError] = []
    taker = Holder("them", "elsewhere", 7)
    with held(tmp_path, told.append, BEAT_S):
        lease._write(tmp_path / FILE, taker)
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(BEAT_S)
        time.sleep(3 * BEAT_S)
    assert [str(error) for error in told] == [
        f"{tmp_path} was taken over by process 7 on elsewhere"
    ]
    assert read(tmp_path / FILE) == taker


@pytest.mark.parametrize("left", ["", "{}", "[1]", "not JSON"])
def test_what_says_nothing_is_nobodys(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE).write_text(left)
    assert read(tmp_path / FILE) is None
    with held(tmp_path, refuse, BEAT_S):
        assert read(tmp_path / FILE) is not None
