"""Trackers: TensorBoard for real; MLflow and W&B through FAKE modules put in their place.

The fakes have only the names of the real packages' APIs that raykd calls, with the real
signatures; they show what raykd sends, not that a server takes it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from raykd.config.train import MlflowConfig, TrackingConfig, WandbConfig
from raykd.errors import JobError
from raykd.telemetry.metrics import HeldoutMetrics, InnerMetrics, StepMetrics
from raykd.telemetry.trackers import close_trackers, log_step, open_trackers

JOB = {"name": "quickstart", "storage_path": "runs", "train": {"epochs": 2, "max_steps": None}}
STEP = StepMetrics(
    step=1,
    epoch=0.5,
    row_start=0,
    row_end=4,
    tokens=100,
    tokens_seen=128,
    loss=2.5,
    divergence=None,
    cross_entropy=3.5,
    lr=1e-4,
    grad_norm=0.7,
    seconds=2.0,
    wait_s=0.5,
    teacher_s=1.0,
    time=1_000.5,
    heldout=HeldoutMetrics(kl=0.4, top1_agreement=0.6, perplexity=21.0),
    inner=InnerMetrics(hidden=0.3, attention=None),
)


def say_nothing(_: str) -> None:
    pass


class TestTensorBoard:
    CONFIG = TrackingConfig(tensorboard=True)

    def events(self, directory: Path) -> Any:
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        ).EventAccumulator(str(directory / "tensorboard"))
        accumulator.Reload()
        return accumulator

    def write(self, directory: Path, *steps: StepMetrics, resume_step: int = 0) -> None:
        trackers = open_trackers(self.CONFIG, "r", directory, JOB, resume_step=resume_step)
        for metrics in steps:
            trackers = log_step(trackers, metrics, pytest.fail)
        close_trackers(trackers, pytest.fail)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_events_read_back(self, tmp_path: Path) -> None:
        self.write(tmp_path, STEP, replace(STEP, step=2, loss=2.0))
        events = self.events(tmp_path)
        assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.5), (2, 2.0)]
        assert events.Scalars("heldout/kl")[0].value == pytest.approx(0.4)
        assert events.Scalars("train/loss")[0].wall_time == 1_000.5
        assert events.Scalars("inner/hidden")[0].value == pytest.approx(0.3)
        assert not {"train/divergence", "inner/attention"} & set(events.Tags()["scalars"])

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_resume_purges_what_is_learned_anew(self, tmp_path: Path) -> None:
        self.write(tmp_path, *(replace(STEP, step=n, time=1_000.0 + n) for n in range(1, 5)))
        self.write(tmp_path, replace(STEP, step=3, loss=9.0, time=1_100.0), resume_step=2)
        scalars = self.events(tmp_path).Scalars("train/loss")
        assert [(e.step, e.value) for e in scalars] == [(1, 2.5), (2, 2.5), (3, 9.0)]


class FakeMlflowClient:
    """FAKE: keeps in memory, over all clients, what is sent."""

    experiments: ClassVar[dict[str, str]]
    runs: ClassVar[list[dict[str, Any]]]

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        known = self.experiments.get(name)
        return None if known is None else SimpleNamespace(experiment_id=known)

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def search_runs(
        self, experiment_ids: list[str], filter_string: str, max_results: int
    ) -> list[SimpleNamespace]:
        tag = filter_string.removeprefix("tags.`raykd.run_id` = '").removesuffix("'")
        found = [
            i
            for i, run in enumerate(self.runs)
            if run["experiment"] in experiment_ids and run["tags"]["raykd.run_id"] == tag
        ]
        return [SimpleNamespace(info=SimpleNamespace(run_id=str(i))) for i in found[:max_results]]

    def create_run(
        self, experiment_id: str, run_name: str, tags: dict[str, str]
    ) -> SimpleNamespace:
        self.runs.append(
            {"experiment": experiment_id, "name": run_name, "tags": tags, "params": {}, "sent": []}
        )
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.runs) - 1)))

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[int(run_id)]["status"] = status

    def log_param(self, run_id: str, key: str, value: str) -> None:
        self.runs[int(run_id)]["params"][key] = value

    def log_batch(self, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
        self.runs[int(run_id)]["sent"].extend(metrics)

    def set_terminated(self, run_id: str) -> None:
        self.runs[int(run_id)]["status"] = "FINISHED"


@pytest.fixture
def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> type[FakeMlflowClient]:
    class Client(FakeMlflowClient):
        experiments: ClassVar[dict[str, str]] = {}
        runs: ClassVar[list[dict[str, Any]]] = []

    module = ModuleType("mlflow")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    module.entities = SimpleNamespace(  # type: ignore[attr-defined]
        Metric=lambda key, value, timestamp, step: (key, value, timestamp, step)
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return Client


class TestMlflowWithFakeModule:
    CONFIG = TrackingConfig(mlflow=MlflowConfig(tracking_uri="file:/x"))

    def test_new_run(self, fake_mlflow: type[FakeMlflowClient], tmp_path: Path) -> None:
        (tracker,) = open_trackers(self.CONFIG, "quickstart", tmp_path, JOB)
        tracker.log(STEP)
        tracker.close()
        (run,) = fake_mlflow.runs
        assert (run["name"], run["status"]) == ("quickstart", "FINISHED")
        assert run["params"]["train.epochs"] == "2"
        assert ("train/loss", 2.5, 1_000_500, 1) in run["sent"]
        assert ("heldout/kl", 0.4, 1_000_500, 1) in run["sent"]

    def test_resume_goes_on_with_its_run(
        self, fake_mlflow: type[FakeMlflowClient], tmp_path: Path
    ) -> None:
        for start in (0, 1):
            (tracker,) = open_trackers(self.CONFIG, "quickstart", tmp_path, JOB, resume_step=start)
            assert fake_mlflow.runs[0].get("status") == ("RUNNING" if start else None)
            tracker.log(replace(STEP, step=start + 1))
            tracker.close()
        assert len(fake_mlflow.runs) == 1
        assert {step for *_, step in fake_mlflow.runs[0]["sent"]} == {1, 2}

    def test_same_name_elsewhere_is_another_run(
        self, fake_mlflow: type[FakeMlflowClient], tmp_path: Path
    ) -> None:
        for place in ("runs", "other"):
            open_trackers(self.CONFIG, "quickstart", tmp_path, {**JOB, "storage_path": place})
        assert len(fake_mlflow.runs) == 2

    def test_server_out_of_reach(
        self,
        fake_mlflow: type[FakeMlflowClient],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: object) -> None:
            raise ConnectionError("connection refused")

        monkeypatch.setattr(fake_mlflow, "get_experiment_by_name", refuse)
        with pytest.raises(JobError, match=r"tracking\.mlflow: cannot be opened: connection ref"):
            open_trackers(self.CONFIG, "r", tmp_path, JOB)


class FakeWandbRun:
    """FAKE: keeps in memory what is sent."""

    def __init__(self, **asked: Any) -> None:
        self.asked = asked
        self.defined: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[dict[str, float]] = []
        self.finished = False

    def define_metric(self, name: str, **how: Any) -> None:
        self.defined.append((name, how))

    def log(self, data: dict[str, float]) -> None:
        self.sent.append(data)

    def finish(self) -> None:
        self.finished = True


class TestWandbWithFakeModule:
    CONFIG = TrackingConfig(wandb=WandbConfig(project="p", mode="offline"))

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[FakeWandbRun]:
        runs: list[FakeWandbRun] = []

        def init(**asked: Any) -> FakeWandbRun:
            runs.append(FakeWandbRun(**asked))
            return runs[-1]

        module = ModuleType("wandb")
        module.init = init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "wandb", module)
        return runs

    def test_run(self, runs: list[FakeWandbRun], tmp_path: Path) -> None:
        (tracker,) = open_trackers(self.CONFIG, "quickstart", tmp_path, JOB)
        tracker.log(STEP)
        tracker.close()
        (run,) = runs
        assert {key: run.asked[key] for key in ("project", "mode", "name", "resume", "config")} == {
            "project": "p",
            "mode": "offline",
            "name": "quickstart",
            "resume": "allow",
            "config": JOB,
        }
        assert ("*", {"step_metric": "step"}) in run.defined
        assert run.sent[0]["step"] == 1
        assert run.sent[0]["train/loss"] == 2.5
        assert run.finished

    def test_id_is_stable(self, runs: list[FakeWandbRun], tmp_path: Path) -> None:
        for place in ("runs", "runs", "other"):
            open_trackers(self.CONFIG, "quickstart", tmp_path, {**JOB, "storage_path": place})
        first, again, elsewhere = (run.asked["id"] for run in runs)
        assert first == again != elsewhere


@pytest.mark.parametrize(
    ("module", "field", "config"),
    [
        ("torch.utils.tensorboard", "tensorboard", TrackingConfig(tensorboard=True)),
        ("mlflow", "mlflow", TestMlflowWithFakeModule.CONFIG),
        ("wandb", "wandb", TestWandbWithFakeModule.CONFIG),
    ],
)
def test_missing_package(
    module: str,
    field: str,
    config: TrackingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(JobError) as caught:
        open_trackers(config, "r", tmp_path, JOB)
    assert f"tracking.{field}:" in str(caught.value)
    assert "pip install 'raykd[trackers]'" in str(caught.value)


def test_nothing_asked_for_imports_nothing(tmp_path: Path) -> None:
    before = set(sys.modules)
    assert open_trackers(TrackingConfig(), "r", tmp_path, JOB) == []
    assert set(sys.modules) == before


class Broken:
    """A tracker whose server is gone."""

    name = "Broken"

    def log(self, metrics: StepMetrics) -> None:
        raise ConnectionError("gone")

    def close(self) -> None:
        raise ConnectionError("gone")


def test_a_tracker_that_fails_is_named_once_and_left_out() -> None:
    said: list[str] = []
    assert log_step([Broken()], STEP, said.append) == []
    assert said == [
        "Broken failed at step 1 and gets no more steps: gone; metrics.jsonl has them all"
    ]
    close_trackers([Broken()], said.append)
    assert said[1:] == ["Broken could not be closed: gone"]
