"""A full disk is told as such; every other failure is handed on as it is."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd.errors import StorageError
from raykd.student import failures, loop, space
from raykd.student.checkpoint import latest
from raykd.student.notice import Notices
from raykd.student.protocol import StepResult, Wish
from raykd.telemetry.metrics_file import MetricsWriter, read_metrics


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_place_and_what_to_do(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(
            StorageError,
            match=rf"{tmp_path}: no space left for a checkpoint; free on this disk are [\d,]+ bytes"
            r"\. .*free some space .*--resume",
        ),
        space.needed(tmp_path, "a checkpoint"),
    ):
        raise OSError(code, "made to fail")


def test_it_is_found_behind_what_it_led_to(tmp_path: Path) -> None:
    error = RuntimeError("could not save")
    error.__context__ = OSError(errno.ENOSPC, "made to fail")
    with pytest.raises(StorageError, match="no space left"), space.needed(tmp_path, "a line"):
        raise error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "the disk is ill"), RuntimeError("NCCL timed out"), ValueError("wrong")],
    ids=str,
)
def test_other_failures_are_handed_on(tmp_path: Path, error: Exception) -> None:
    """A rank that was lost while it saved may start again; a full disk would only be met again."""
    with pytest.raises(type(error)) as raised, space.needed(tmp_path, "a checkpoint"):
        raise error
    assert raised.value is error


class Student:
    """Writes half of a checkpoint and finds the disk full, until there is space."""

    is_full = True

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        return StepResult(1, 1, 1.0, 1.0, 1.0, 0.1, 1.0, 0.0, 0.0, wish)

    def save(self, directory: Path) -> None:
        (directory / "weights").write_text("half")
        if self.is_full and directory.name.startswith("step-00000002"):
            raise OSError(errno.ENOSPC, "made to fail")


def test_a_run_whose_disk_is_full_goes_on_from_the_checkpoint_before(
    tmp_path: Path, make_job: Callable[..., Any]
) -> None:
    student, job = Student(), make_job({"checkpoint": {"every_steps": 1}})
    batch = job.train.global_batch

    def places(rank: int, step: int) -> np.ndarray[Any, Any]:
        return np.arange(step * batch, (step + 1) * batch)

    def run(first_step: int) -> int:
        rows = iter([pa.table({"row": places(0, step)}) for step in range(first_step, 3)])
        stretch = loop.Stretch(first_step, 3, 12, places)
        rank = loop.Rank(0, 1, lambda: None, Notices())
        with MetricsWriter(tmp_path / "metrics.jsonl", first_step) as writer:
            records = loop.Records(writer, [], print)
            directories = tmp_path / "checkpoints", tmp_path / "stop"
            return loop.run(job, rank, student, rows, stretch, *directories, None, records)

    with pytest.raises(StorageError, match=r"step-00000002\.aside: no space left for a checkpoint"):
        run(0)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    assert found.mark.step == 1
    student.is_full = False
    assert run(found.mark.step) == 3
    assert [step.step for step in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert not [name for name in names if name.endswith(".aside")]


def test_a_failure_is_told_though_no_record_can_be_written(tmp_path: Path) -> None:
    """The directory of logs is gone, as the space for them is."""
    failure = StorageError("no space left")
    failures.keep(tmp_path / "none", 0, failure)
    assert str(failures.told(tmp_path / "none", failure)) == "no space left"
