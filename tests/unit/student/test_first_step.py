"""Where a run goes on: one decision, taken by whoever looks first."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import StorageError
from raykd.student import student_run
from raykd.student.checkpoint import CheckpointMark, aside, name_of, publish
from raykd.student.student_run import StudentRun, note_inexact

STEPS = 4


@pytest.fixture
def run(tmp_path: Path) -> StudentRun:
    (tmp_path / "logs").mkdir()
    student: Any = None  # nothing here looks at it
    return StudentRun(student, 16, str(tmp_path), None, layout_from=range)


def save(run: StudentRun, step: int, num_ranks: int = 2) -> Path:
    directory = aside(run.checkpoints, step)
    directory.mkdir(parents=True)
    (directory / "weights").write_text(f"of step {step}")
    mark = CheckpointMark(step=step, row=4 * step, num_ranks=num_ranks, zero_stage=1)
    return publish(run.checkpoints, mark, keep=9)


def flip(checkpoint: Path) -> None:
    (checkpoint / "weights").write_text((checkpoint / "weights").read_text().replace("of", "0f"))


def notes(run: StudentRun) -> list[str]:
    file = run.logs / "notes.txt"
    return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that checkpoints are read as a whole."""
    counted: list[int] = []
    plain = student_run.newest_good

    def count(*given: Any) -> Any:
        counted.append(1)
        return plain(*given)

    monkeypatch.setattr(student_run, "newest_good", count)
    return counted


def elsewhere(run: StudentRun, monkeypatch: pytest.MonkeyPatch) -> StudentRun:
    """As it arrives in another process."""
    arrived: StudentRun = pickle.loads(pickle.dumps(run))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    return arrived


def test_a_run_that_never_saved_begins_at_the_start(run: StudentRun) -> None:
    assert run.first_step() == 0


def test_a_damaged_one_is_noted_and_all_go_on_from_the_one_before(run: StudentRun) -> None:
    save(run, 2)
    flip(save(run, STEPS))
    assert run.first_step() == 2
    assert run.first_step() == 2
    [note] = notes(run)
    assert note.startswith(f"checkpoint {name_of(STEPS)} is damaged: weights has other content")


def test_what_the_driver_verified_is_not_read_again_for_the_same_start(
    run: StudentRun, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 2)
    assert run.first_step() == 2
    assert len(reads) == 1
    controller = elsewhere(run, monkeypatch)
    assert controller.first_step() == 2
    assert len(reads) == 1
    # A restart of the group is another start: a damaged disk may be why.
    assert controller.first_step() == 2
    assert controller.first_step() == 2
    assert len(reads) == 3


def test_what_the_driver_verified_before_it_knew_the_run_counts_too(
    run: StudentRun, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 2)
    run.trust(2)
    controller = elsewhere(run, monkeypatch)
    assert controller.first_step() == 2
    assert reads == []
    assert controller.first_step() == 2
    assert len(reads) == 1


def test_a_restart_takes_a_newer_one_and_verifies_it(
    run: StudentRun, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 2)
    run.first_step()
    controller = elsewhere(run, monkeypatch)
    save(run, 3)
    flip(save(run, 4))
    assert controller.first_step() == 3
    assert len(reads) == 2
    assert len(notes(run)) == 1


def test_none_that_is_good_stops_every_process(run: StudentRun) -> None:
    flip(save(run, 2))
    for _ in range(2):
        with pytest.raises(StorageError, match="no good checkpoint is left"):
            run.first_step()


def test_what_goes_on_otherwise_is_noted(run: StudentRun) -> None:
    save(run, 2)
    found = student_run.latest(run.checkpoints)
    assert found is not None
    for num_ranks in (2, 3):
        note_inexact(run, found, num_ranks)
    note_inexact(run, student_run.Checkpoint(found.directory, found.mark), 2)
    first, second = notes(run)
    assert first.startswith("checkpoint step-00000002 of 2 ranks goes on with 3: sums are rounded")
    assert second.startswith("checkpoint step-00000002 is of an earlier version, without checksums")
