"""What the driver and the asking processes show as metrics; no Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.errors import DivergenceError, Interrupted, TeacherError
from raykd.pipeline import instruments as instruments_module
from raykd.pipeline import metered
from raykd.pipeline.instruments import Instruments
from raykd.pipeline.metered import Delivered, FromTeacher
from raykd.pipeline.meters import EVERY_S, Meters, newest_step
from raykd.store.scoring import KeptScorer
from raykd.store.tally import Tally
from raykd.student.failure_tail import RankFailure
from raykd.teacher import client
from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.names import METRICS
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import Summary, summarize


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorded(Instruments):
    """Keeps what would go to Ray; a name that is not in the table, or of another kind, fails."""

    def __init__(self) -> None:
        super().__init__("tiny")
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.labels: dict[str, list[dict[str, str]]] = {}
        self.num_sets = 0

    def set(self, name: str, value: float | None) -> None:
        assert METRICS[f"raykd_{name}"].kind == "gauge"
        self.num_sets += 1
        if value is not None:
            self.gauges[name] = value

    def add(self, name: str, value: float, **labels: str) -> None:
        metric = METRICS[f"raykd_{name}_total"]
        assert metric.kind == "counter"
        assert {"run", *labels} == set(metric.labels)
        assert value >= 0
        if value:
            self.counters[name] = self.counters.get(name, 0) + value
            self.labels.setdefault(name, []).append(labels)


class RayMetric:
    """Stands for Ray's Gauge and Counter."""

    made: list[RayMetric]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.description, self.tag_keys = name, description, tag_keys
        self.values: list[tuple[float, dict[str, str]]] = []
        self.made.append(self)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values.append((value, tags))

    inc = set


@pytest.fixture
def to() -> Recorded:
    return Recorded()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meters(to: Recorded, clock: Clock) -> Meters:
    return Meters(to, clock=clock, wall_clock=lambda: 5000.0)


def step(number: int, **changed: Any) -> StepMetrics:
    metrics = StepMetrics(
        step=number,
        epoch=0.5,
        row_start=4 * number - 4,
        row_end=4 * number,
        tokens=100,
        tokens_seen=140,
        loss=2.5,
        divergence=1.5,
        cross_entropy=3.5,
        lr=1e-4,
        grad_norm=0.75,
        seconds=2.0,
        wait_s=0.5,
        teacher_s=1.25,
        time=6000.0 + number,
    )
    return replace(metrics, **changed)


def recent(*steps: StepMetrics) -> Summary:
    return summarize(steps, replicas=1)


def failure(rank: int) -> RankFailure:
    return RankFailure(rank, "RuntimeError", "boom", "Traceback", 1.0)


class TestInstruments:
    @pytest.fixture(autouse=True)
    def _ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        RayMetric.made = []
        monkeypatch.setattr(instruments_module, "Gauge", type("Gauge", (RayMetric,), {}))
        monkeypatch.setattr(instruments_module, "Counter", type("Counter", (RayMetric,), {}))

    def test_are_made_once_and_carry_the_run(self) -> None:
        to = Instruments("tiny")
        to.set("loss", 2)
        to.set("loss", 1)
        to.add("steps", 3)
        to.add("run_failures", 1, error="StoreError")
        loss, steps, failures = RayMetric.made
        assert (type(loss).__name__, loss.name) == ("Gauge", "raykd_loss")
        assert loss.values == [(2.0, {"run": "tiny"}), (1.0, {"run": "tiny"})]
        assert (type(steps).__name__, steps.name) == ("Counter", "raykd_steps_total")
        assert failures.values == [(1.0, {"run": "tiny", "error": "StoreError"})]
        assert loss.description == METRICS["raykd_loss"].description

    def test_nothing_that_ray_refuses_or_drops(self) -> None:
        to = Instruments("tiny")
        to.set("loss", None)
        to.set("loss", float("nan"))
        to.set("loss", float("inf"))
        to.add("steps", 0)
        to.add("steps", -1)
        assert not RayMetric.made


class TestTheDriver:
    def test_counts_every_step_and_shows_the_last(
        self, meters: Meters, to: Recorded, clock: Clock
    ) -> None:
        measured = HeldoutMetrics(kl=0.25, top1_agreement=0.5, perplexity=9.0)
        steps = [step(1), step(2, heldout=measured), step(3, loss=2.0)]
        with meters.training(0, 10, global_batch=4):
            assert to.gauges == {
                "step": 0,
                "steps_planned": 10,
                "progress_timestamp_seconds": 5000.0,
                "training": 1,
            }
            meters.update(steps, recent(*steps))
            assert meters.is_due()
        assert to.counters == {
            "steps": 3,
            "student_tokens": 420,
            "student_seconds": 6.0,
            "student_wait_seconds": 1.5,
            "teacher_busy_seconds": 3.75,
        }
        expected = {
            "training": 0,
            "step": 3,
            "steps_planned": 10,
            "progress_timestamp_seconds": 6003.0,
            "loss": 2.0,
            "divergence": 1.5,
            "cross_entropy": 3.5,
            "learning_rate": 1e-4,
            "gradient_norm": 0.75,
            "step_seconds": 2.0,
            "heldout_kl": 0.25,
            "heldout_top1_agreement_ratio": 0.5,
            "heldout_perplexity": 9.0,
            "student_tokens_per_second": 70.0,
            "student_wait_ratio": 0.25,
            "teacher_tokens_per_second": 112.0,
            "teacher_busy_ratio": 0.625,
            "teacher_held_back_ratio": 0.375,
        }
        assert to.gauges == pytest.approx(expected)

    def test_gauges_are_set_every_few_seconds(
        self, meters: Meters, to: Recorded, clock: Clock
    ) -> None:
        meters.update([step(1)], recent(step(1)))
        assert meters.is_due()
        after = to.num_sets
        for number in range(2, 8):
            clock.now += 0.5
            meters.update([step(number)], recent(step(number)))
            assert not meters.is_due()
        assert to.num_sets == after
        assert to.counters["steps"] == 7
        clock.now += EVERY_S
        assert meters.is_due()
        assert to.gauges["step"] == 7

    def test_the_end_shows_the_last_step_however_short_ago(
        self, meters: Meters, to: Recorded
    ) -> None:
        def fail() -> None:
            with meters.training(0, 5, 4):
                meters.is_due()
                meters.update([step(1)], recent(step(1)))
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert to.gauges["step"] == 1
        assert to.gauges["training"] == 0

    def test_replicas_and_limits(self, meters: Meters, to: Recorded) -> None:
        meters.teacher(ReplicaSample(time=0.0, running=2, wanted=3, most=4, queued=6))
        meters.limits(num_requests=10, stream_bytes=7_000)
        assert to.gauges == {
            "teacher_replicas_running": 2,
            "teacher_replicas_wanted": 3,
            "teacher_replicas_limit": 4,
            "teacher_requests_waiting": 6,
            "teacher_requests_limit": 10,
            "stream_limit_bytes": 7_000,
        }

    def test_restarts_are_the_starts_after_the_first(self, meters: Meters, to: Recorded) -> None:
        for times in (0, 1, 1, 2, 4, 4):
            meters.student_began(times)
        assert to.counters == {"student_restarts": 3}

    def test_failures_by_rank_and_by_kind(self, meters: Meters, to: Recorded) -> None:
        meters.rank_failed(failure(3))
        with pytest.raises(DivergenceError), meters.failures_counted():
            raise DivergenceError("loss is nan")
        with pytest.raises(Interrupted), meters.failures_counted():
            raise Interrupted("stopped")
        assert to.labels == {
            "student_rank_failures": [{"rank": "3"}],
            "run_failures": [{"error": "DivergenceError"}],
        }

    def test_where_a_resume_would_begin(self, meters: Meters, to: Recorded, tmp_path: Path) -> None:
        meters.checkpoint(tmp_path / "none")
        with meters.training(0, 50, global_batch=4):
            for name in ("step-00000008", "step-00000012", "step-00000016.aside"):
                (tmp_path / name).mkdir()
            (tmp_path / "universal-step-00000040").mkdir()
            meters.checkpoint(tmp_path)
        assert (to.gauges["checkpoint_step"], to.gauges["checkpoint_row"]) == (12, 48)
        assert newest_step(tmp_path) == 12


class TestWhoAsks:
    @pytest.fixture(autouse=True)
    def _here(self, to: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metered, "instruments_of", lambda run: to)
        monkeypatch.setattr(metered, "_seen", metered._Seen())
        monkeypatch.setattr(metered, "failed_tries", client.FailedTries())

    @staticmethod
    def answer(rows: pa.Table) -> pa.Table:
        return pa.table({"ids": pa.array(range(rows.num_rows), pa.int64())})

    @pytest.fixture
    def rows(self) -> pa.Table:
        return pa.table({"row": [1, 2, 3]})

    def test_the_teachers_answers(self, to: Recorded, rows: pa.Table) -> None:
        async def score(asked: pa.Table) -> pa.Table:
            return self.answer(asked)

        answered = asyncio.run(FromTeacher("tiny", score)(rows))
        assert answered.num_rows == 3
        assert to.counters == {"teacher_requests": 1, "teacher_rows": 3, "teacher_bytes": 24}

    def test_failed_tries_of_an_answer_and_of_none(self, to: Recorded, rows: pa.Table) -> None:
        async def late(asked: pa.Table) -> pa.Table:
            metered.failed_tries.lost += 2
            return self.answer(asked)

        async def never(asked: pa.Table) -> pa.Table:
            metered.failed_tries.refused += 2
            raise TeacherError("twice")

        asyncio.run(FromTeacher("tiny", late)(rows))
        with pytest.raises(TeacherError):
            asyncio.run(FromTeacher("tiny", never)(rows))
        assert to.counters["teacher_requests_lost"] == 2
        assert to.counters["teacher_requests_refused"] == 2
        assert to.counters["teacher_requests"] == 1

    def test_hits_and_misses_of_a_store_that_is_opened_twice(
        self, to: Recorded, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tally = Tally()

        class Kept(KeptScorer):
            async def __call__(self, asked: pa.Table) -> pa.Table:
                tally.hit_rows += 2
                tally.missed_rows += 1
                return TestWhoAsks.answer(asked)

        class Section:
            name = "section"

        class Store:
            pass

        section: Any = Section()
        monkeypatch.setattr(metered, "opened", lambda scorer: Store)
        delivered = Delivered("tiny", Kept("/nowhere", section, None, write=False))
        for begins_anew in (False, False, True):
            tally = Tally() if begins_anew else tally
            Store.tally = tally  # type: ignore[attr-defined]
            asyncio.run(delivered(rows))
        assert to.counters == {
            "soft_target_rows": 9,
            "soft_target_bytes": 72,
            "store_hit_rows": 6,
            "store_missed_rows": 3,
        }

    def test_a_flush_goes_on(self) -> None:
        flushed: list[int] = []

        class Score:
            async def __call__(self, asked: pa.Table) -> pa.Table:
                return asked

            def flush(self) -> None:
                flushed.append(1)

        Delivered("tiny", Score()).flush()

        async def bare(asked: pa.Table) -> pa.Table:
            return asked

        Delivered("tiny", bare).flush()
        assert flushed == [1]


def test_the_client_counts_tries_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "failed_tries", client.FailedTries())
    tries = client._Tries(max_retries=5)
    make: Callable[[BaseException], bool] = tries.again
    assert make(TimeoutError())
    assert make(ValueError("what an engine raises"))
    assert client.failed_tries == client.FailedTries(lost=1, refused=1)
