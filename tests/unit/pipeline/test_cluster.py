"""Tasks: where they run, and what ends the wait for them; no Ray is started."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from raykd.errors import CapacityError
from raykd.pipeline import cluster


class FakeRay:
    """A Ray whose only task is done after some looks."""

    def __init__(self, done_after: int) -> None:
        self.left = done_after
        self.cancelled: list[Any] = []
        self.options: dict[str, Any] = {}

    def remote(self, function: Any) -> Any:
        ray = self

        class Task:
            def options(self, **options: Any) -> Any:
                ray.options = options
                return self

            def remote(self, *arguments: Any) -> str:
                return "reference"

        return Task()

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self.left -= 1
        return ([], references) if self.left > 0 else (references, [])

    def get(self, reference: Any) -> str:
        return f"result of {reference}"

    def cancel(self, reference: Any) -> None:
        self.cancelled.append(reference)

    exceptions = cluster.ray.exceptions


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay(done_after=3)
    monkeypatch.setattr(cluster, "ray", ray)
    return ray


def work() -> None: ...


def test_labels_decide_where_a_task_runs(fake: FakeRay) -> None:
    cluster.run_remote(work, cpus=2.0, labels={"raykd-role": "data"})
    assert fake.options["label_selector"] == {"raykd-role": "data"}
    assert fake.options["num_cpus"] == 2.0
    cluster.run_remote(work)
    assert "label_selector" not in fake.options


def test_a_wait_looks_until_the_task_is_done(fake: FakeRay) -> None:
    looks: list[int] = []
    with cluster.while_waiting(lambda: looks.append(1)):
        assert cluster.run_remote(work) == "result of reference"
    assert len(looks) == 2
    assert not fake.cancelled


def test_a_look_ends_the_wait_and_takes_the_task_back(fake: FakeRay) -> None:
    def look() -> None:
        raise CapacityError("no nodes")

    with pytest.raises(CapacityError, match="no nodes"), cluster.while_waiting(look):
        cluster.run_remote(work)
    assert fake.cancelled == ["reference"]
    assert not cluster._looks


def test_ray_data_asks_no_autoscaler_for_nodes() -> None:
    """The names are Ray's: what it makes of them is looked at in a process of its own."""
    code = (
        "from ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler import *;"
        "t = RateBasedClusterAutoscaler.DEFAULT_CLUSTER_SCALING_UP_UTIL_THRESHOLD;"
        "print(t.cpu, t.gpu, t.memory, t.object_store_memory)"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | cluster.NO_NODES_FOR_DATA,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["1000000000.0"] * 4


@pytest.fixture
def _levels() -> Iterator[None]:
    """Loggers of this process that a connection makes quieter are as loud as before."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.serve", "ray.train", "ray.data")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("_levels")
@pytest.mark.parametrize("address", ["local", "127.0.0.1:1"])
def test_workers_of_ones_own_ray_inherit_what_others_are_told(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = cluster.WORKER_ENVIRONMENT | cluster.NO_NODES_FOR_DATA
    first = next(iter(cluster.WORKER_ENVIRONMENT))
    monkeypatch.setattr(os, "environ", {**os.environ, first: "a person's own"})
    found: dict[str, Any] = {}

    def init(**options: Any) -> None:
        found.update(options, inherited=dict(os.environ))

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    with cluster.connect(address):
        assert os.environ[first] == "a person's own"
        assert "OMP_WAIT_POLICY" not in os.environ
    if address == "local":
        assert found["runtime_env"] is None
        assert found["inherited"].items() >= wanted.items()
    else:
        assert found["runtime_env"] == {"env_vars": wanted}
        assert found["inherited"][first] == "a person's own"


@pytest.mark.usefixtures("_levels")
def test_train_takes_no_other_cluster_for_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard that knows nothing of this Ray's controller would have its ranks taken down."""
    from ray.train.v2._internal.state.util import is_actor_alive
    from ray.util.state.exception import RayStateApiException

    told: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_API_SERVER_ADDRESS": "http://elsewhere"})
    monkeypatch.setattr(cluster.ray, "init", lambda **_: told.update(os.environ))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    with cluster.connect("local"):
        assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://elsewhere"
    monkeypatch.setattr(os, "environ", told)
    # "I cannot say" and not "dead", whoever listens on the usual port.
    with pytest.raises(RayStateApiException):
        is_actor_alive("0" * 32, timeout=5)
