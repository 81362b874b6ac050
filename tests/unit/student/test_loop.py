"""One rank's loop with a student that only keeps a diary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd.errors import DivergenceError, OrderError
from raykd.losses.heldout import HeldoutSums
from raykd.student import loop, notice
from raykd.student.checkpoint import latest
from raykd.student.notice import Notices, Termination
from raykd.student.protocol import StepResult, Wish
from raykd.telemetry.metrics_file import MetricsWriter, read_metrics

BATCH = 4
MakeJob = Callable[..., Any]


class Diary:
    """A student that writes down what it is asked; `nan_at` is a step it cannot make."""

    def __init__(self, nan_at: int | None = None, wishes: dict[int, Wish] | None = None) -> None:
        self.steps: list[int] = []
        self.rows: list[list[int]] = []
        self.wished: list[Wish] = []
        self.saved: list[str] = []
        self.measured = 0
        self._nan_at = nan_at
        self._wishes = wishes or {}

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        if step == self._nan_at:
            raise DivergenceError(f"loss is nan at step {step + 1}")
        assert wait_s >= 0
        self.steps.append(step)
        self.rows.append(rows.column("row").to_pylist())
        self.wished.append(wish)
        return StepResult(
            tokens=10 + step,
            tokens_seen=20,
            loss=1.0 / (step + 1),
            divergence=0.5,
            cross_entropy=2.0,
            lr=0.1,
            grad_norm=1.5,
            wait_s=0.0,
            teacher_s=0.25,
            wish=max(wish, self._wishes.get(step, Wish.GO_ON)),
        )

    def heldout(self, rows: pa.Table) -> HeldoutSums:
        self.measured += 1
        return HeldoutSums(tokens=8.0, kl=4.0, agreed=6.0, cross_entropy=8.0 * np.log(3.0))

    def save(self, directory: Path) -> None:
        assert directory.is_dir()
        (directory / "weights").write_text(str(len(self.steps)))
        self.saved.append(directory.name)

    def load(self, directory: Path) -> None:
        raise AssertionError("the loop does not load")


def places(rank: int, step: int) -> np.ndarray[Any, Any]:
    """Where this rank's rows of a step are; two ranks of two rows each, or one of four."""
    return np.arange(step * BATCH, (step + 1) * BATCH)


def stream(first_step: int, num_steps: int) -> Iterator[pa.Table]:
    for step in range(first_step, num_steps):
        yield pa.table({"row": places(0, step)})


class Run:
    """A loop in a directory of its own."""

    def __init__(self, root: Path, job: Any) -> None:
        self.job = job
        self.checkpoints = root / "checkpoints"
        self.stop_file = root / "stop"
        self.metrics = root / "metrics.jsonl"
        self.barriers = 0
        self.notes: list[str] = []

    def __call__(
        self,
        student: Diary,
        num_steps: int,
        first_step: int = 0,
        rows: Iterator[pa.Table] | None = None,
        rank: int = 0,
        heldout: pa.Table | None = None,
        notices: Notices | None = None,
    ) -> int:
        with MetricsWriter(self.metrics, first_step) as writer:
            return loop.run(
                self.job,
                loop.Rank(rank, 1, self._barrier, notices or Notices()),
                student,
                stream(first_step, num_steps) if rows is None else rows,
                loop.Stretch(first_step, num_steps, 16, places),
                self.checkpoints,
                self.stop_file,
                heldout,
                loop.Records(writer, [], self.notes.append) if rank == 0 else None,
            )

    def _barrier(self) -> None:
        self.barriers += 1

    @property
    def names(self) -> list[str]:
        if not self.checkpoints.is_dir():
            return []
        return sorted(path.name for path in self.checkpoints.iterdir())

    @property
    def whole(self) -> list[str]:
        return [name for name in self.names if not name.endswith(".aside")]


@pytest.fixture
def make_run(tmp_path: Path, make_job: MakeJob) -> Callable[..., Run]:
    def make(changes: dict[str, Any] | None = None) -> Run:
        plain = {"checkpoint": {"keep": 9}, "train.global_batch": BATCH}
        return Run(tmp_path, make_job({**plain, **(changes or {})}))

    return make


def test_every_step_is_made_with_its_rows(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()
    assert run(student, 3) == 3
    assert student.steps == [0, 1, 2]
    assert student.rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert set(student.wished) == {Wish.GO_ON}


def test_a_line_of_metrics_for_every_step(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run(Diary(), 3)
    lines = read_metrics(run.metrics)
    assert [(m.step, m.row_start, m.row_end) for m in lines] == [(1, 0, 4), (2, 4, 8), (3, 8, 12)]
    assert [m.epoch for m in lines] == [0.25, 0.5, 0.75]
    assert [m.tokens for m in lines] == [10, 11, 12]
    assert [m.loss for m in lines] == [1.0, 0.5, 1.0 / 3]
    assert all(m.seconds >= m.wait_s >= 0 for m in lines)
    keys = json.loads(run.metrics.read_text().splitlines()[0]).keys()
    wanted = {"step", "row_start", "row_end", "tokens", "loss", "lr", "grad_norm", "seconds"}
    assert wanted | {"wait_s", "divergence", "cross_entropy"} <= keys


@pytest.mark.parametrize(
    ("every", "num_steps", "saved"),
    [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (None, 3, [3]), (10, 3, [3]), (1, 2, [1, 2])],
)
def test_checkpoints_come_when_due_and_at_the_end(
    every: int | None, num_steps: int, saved: list[int], make_run: Callable[..., Run]
) -> None:
    run, student = make_run({"checkpoint.every_steps": every}), Diary()
    run(student, num_steps)
    assert run.names == [f"step-{step:08d}" for step in saved]
    assert student.saved == [f"step-{step:08d}.aside" for step in saved]
    found = latest(run.checkpoints)
    assert found is not None
    assert (found.mark.step, found.mark.row) == (num_steps, num_steps * BATCH)
    assert (found.mark.num_ranks, found.mark.zero_stage) == (1, 1)
    assert run.barriers >= 2 * len(saved)


def test_only_the_last_are_kept(make_run: Callable[..., Run]) -> None:
    run = make_run({"checkpoint": {"every_steps": 1, "keep": 2}})
    run(Diary(), 5)
    assert run.names == ["step-00000004", "step-00000005"]


def test_checkpoints_by_the_clock(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute passes at every look at the clock."""
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    run = make_run({"checkpoint.every_minutes": 2.5})
    run(Diary(), 4)
    # three minutes after the start (step 3), then at the end
    assert run.names == ["step-00000003", "step-00000004"]


def test_a_stop_saves_and_ends(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()

    def rows() -> Iterator[pa.Table]:
        for step in range(9):
            if step == 2:
                run.stop_file.touch()
            yield pa.table({"row": places(0, step)})

    assert run(student, 9, rows=rows()) == 3
    assert student.wished == [Wish.GO_ON, Wish.GO_ON, Wish.SAVE_AND_END]
    assert run.names == ["step-00000003"]


def test_other_ranks_learn_of_a_stop_from_the_first(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary(wishes={1: Wish.SAVE_AND_END})
    run.stop_file.touch()  # only the first rank looks
    (run.checkpoints / "step-00000002.aside").mkdir(parents=True)  # which it makes
    assert run(student, 9, rank=1) == 2
    assert student.wished == [Wish.GO_ON, Wish.GO_ON]
    assert student.saved == ["step-00000002.aside"]
    assert latest(run.checkpoints) is None, "the first rank publishes"


def test_a_wish_to_save_does_not_end(make_run: Callable[..., Run]) -> None:
    run = make_run()
    assert run(Diary(wishes={0: Wish.SAVE}), 3) == 3
    assert run.names == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize(
    "rows",
    [[4, 5, 6, 8], [4, 5, 6], [5, 4, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7, 8], []],
    ids=["another", "fewer", "swapped", "old", "more", "none"],
)
def test_rows_out_of_place_stop_the_run(rows: list[int], make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()
    wrong = pa.table({"row": pa.array(rows, pa.int64())})
    with pytest.raises(OrderError, match=r"rank 0, step 2: expected rows \[4 5 6 7\]"):
        run(student, 3, rows=iter([pa.table({"row": places(0, 0)}), wrong]))
    assert student.steps == [0]
    assert run.names == []


def test_a_stream_that_ends_too_early(make_run: Callable[..., Run]) -> None:
    with pytest.raises(OrderError, match="rank 0, step 3: the stream ended before the run did"):
        make_run()(Diary(), 5, rows=stream(0, 2))


def test_a_loss_that_is_no_number_names_its_rows(make_run: Callable[..., Run]) -> None:
    run, student = make_run({"checkpoint.every_steps": 2}), Diary(nan_at=3)
    with pytest.raises(DivergenceError) as caught:
        run(student, 6)
    message = str(caught.value)
    assert message.startswith("loss is nan at step 4 (rows 12 to 15); ")
    assert "the last checkpoint is good" in message
    assert run.names == ["step-00000002"]
    assert [m.step for m in read_metrics(run.metrics)] == [1, 2, 3]


def test_a_resumed_loop_goes_on(make_run: Callable[..., Run]) -> None:
    run = make_run({"checkpoint.every_steps": 2})
    with pytest.raises(DivergenceError):
        run(Diary(nan_at=3), 6)
    student = Diary()
    assert run(student, 6, first_step=2) == 6
    assert student.steps == [2, 3, 4, 5]
    assert student.rows[0] == [8, 9, 10, 11]
    assert [m.step for m in read_metrics(run.metrics)] == [1, 2, 3, 4, 5, 6]
    assert run.names[-1] == "step-00000006"


def test_what_lay_aside_from_a_crash_is_not_mixed_in(make_run: Callable[..., Run]) -> None:
    run = make_run()
    torn = run.checkpoints / "step-00000002.aside"
    torn.mkdir(parents=True)
    (torn / "half").touch()
    run(Diary(), 2)
    assert run.names == ["step-00000002"]
    assert not (run.checkpoints / "step-00000002" / "half").exists()


def test_held_out_rows_are_measured_when_due(make_run: Callable[..., Run]) -> None:
    run, student = make_run({"evaluation.every_steps": 2}), Diary()
    run(student, 5, heldout=pa.table({"x": [1]}))
    lines = read_metrics(run.metrics)
    due = {m.step: m.heldout for m in lines if m.heldout is not None and m.step > 1}
    assert list(due) == [2, 4, 5]
    measured = due[4]
    assert measured is not None
    assert (measured.kl, measured.top1_agreement) == (0.5, 0.75)
    assert measured.perplexity == pytest.approx(3.0)


def test_nothing_is_measured_where_the_job_does_not_ask(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()
    run(student, 2, heldout=None)
    assert student.measured == 0


def test_a_notice_saves_once_and_the_run_goes_on(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()
    termination = Termination()

    def rows() -> Iterator[pa.Table]:
        for step in range(5):
            if step == 2:
                termination._asked.set()
            yield pa.table({"row": places(0, step)})

    assert run(student, 5, rows=rows(), notices=Notices(termination)) == 5
    wished = [Wish.GO_ON, Wish.GO_ON, Wish.SAVE_AT_NOTICE, Wish.GO_ON, Wish.GO_ON]
    assert student.wished == wished
    assert run.names == ["step-00000003", "step-00000005"]
    assert run.notes == [
        "notice that a rank's machine or process will be taken away: saved after step 3; the run "
        "goes on until that happens"
    ]


def test_any_rank_may_notice(make_run: Callable[..., Run]) -> None:
    """The first rank learns of it in the step, and so would the third."""
    run = make_run()
    notices = Notices()
    run(Diary(wishes={1: Wish.SAVE_AT_NOTICE}), 4, notices=notices)
    assert run.names == ["step-00000002", "step-00000004"]
    assert notices._quiet_until > 0
    other, student = make_run(), Diary()
    termination = Termination()
    termination._asked.set()
    (other.checkpoints / "step-00000001.aside").mkdir(parents=True)
    (other.checkpoints / "step-00000002.aside").mkdir(parents=True)
    other(student, 2, rank=1, notices=Notices(termination))
    assert student.wished == [Wish.SAVE_AT_NOTICE, Wish.GO_ON]


def test_ray_s_notice_saves_once(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray goes on telling of the node until it is gone."""
    monkeypatch.setattr(notice, "LOOK_EVERY_S", 0.0)
    told = iter([None, ("node",), ("node",), ("node",), ("node",)])
    run, student = make_run(), Diary()
    assert run(student, 5, notices=Notices(preempted=lambda: next(told))) == 5
    assert set(student.wished) == {Wish.LOOK}
    assert run.names == ["step-00000002", "step-00000005"]
    assert len(run.notes) == 1


def test_a_stop_is_stronger_than_a_notice(make_run: Callable[..., Run]) -> None:
    run, student = make_run(), Diary()
    termination = Termination()
    termination._asked.set()
    run.stop_file.touch()
    assert run(student, 5, notices=Notices(termination)) == 1
    assert student.wished == [Wish.SAVE_AND_END]


def test_metrics_are_on_the_disk_before_their_checkpoint(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run({"checkpoint.every_steps": 2})
    synced: list[tuple[int, int]] = []
    plain = MetricsWriter.sync

    def sync(writer: MetricsWriter) -> None:
        plain(writer)
        synced.append((len(read_metrics(run.metrics)), len(run.whole)))

    monkeypatch.setattr(MetricsWriter, "sync", sync)
    run(Diary(), 4)
    assert synced == [(2, 0), (4, 1)]
