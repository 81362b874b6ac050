"""Ranks that find no room are told from ranks that fail; no Ray is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from raykd.errors import CapacityError, RunError
from raykd.student import trainer

TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


@pytest.fixture
def run(make_job: Callable[..., Any], tmp_path: Path) -> Any:
    job = make_job({"student.num_workers": 2, "student.start_timeout_s": 30})
    logs = tmp_path / "logs"
    logs.mkdir()
    return SimpleNamespace(job=job, logs=logs, directory=str(tmp_path), checkpoints=tmp_path)


def fit_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def fit(self) -> None:
            raise error

    monkeypatch.setattr(trainer, "TorchTrainer", Trainer)
    monkeypatch.setenv(TIMEOUT, "1")


@pytest.mark.parametrize(("nodes_wait_s", "limit_s"), [(None, "30"), (77.0, "77")])
def test_rays_words_for_no_room_are_known(
    nodes_wait_s: float | None, limit_s: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_raises(ControllerError(WorkerGroupStartupTimeoutError(num_workers=2)), monkeypatch)
    data: Any = None
    with pytest.raises(CapacityError, match=f"2 student ranks got no room within {limit_s} s"):
        trainer.train(run, lambda: None, data, nodes_wait_s)
    assert float(os.environ[TIMEOUT]) == float(limit_s)


def test_another_failure_stays_what_it_is(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_raises(ControllerError(RuntimeError("out of luck")), monkeypatch)
    data: Any = None
    with pytest.raises(RunError, match="out of luck") as caught:
        trainer.train(run, lambda: None, data)
    assert not isinstance(caught.value, CapacityError)


def test_ranks_wait_for_each_other_longer_than_for_the_teachers_nodes(
    make_job: Callable[..., Any],
) -> None:
    job = make_job()
    before = trainer._group_timeout_s(job, 0.0)
    assert trainer._group_timeout_s(job, 1000.0) >= before + 1000
