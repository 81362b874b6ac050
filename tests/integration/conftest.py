"""A Ray cluster, one way to run a job on it, a time limit on every test."""

from __future__ import annotations

import faulthandler
import io
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from .runs import Distil, Ran
from .shared import SHARED, KeptTeacher

LIMIT_S = 600
"""No test takes a quarter of this on two idle cores; a hang ends here and says where it hung."""


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    """A test that hangs fails; one that cannot even be interrupted ends the session."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"the test took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    faulthandler.dump_traceback_later(LIMIT_S + 60, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def once() -> dict[str, Any]:
    """What the tests of a module make once and share."""
    return {}


@pytest.fixture(scope="session", autouse=True)
def _ray_ends() -> Iterator[None]:
    yield
    SHARED.stop()


@pytest.fixture(scope="module")
def ray_environment() -> dict[str, str]:
    """What a module's workers find in their environment; a module may have its own."""
    return {}


@pytest.fixture(scope="module")
def ray_cluster(request: pytest.FixtureRequest, ray_environment: dict[str, str]) -> Iterator[None]:
    """A cluster of four logical CPUs."""
    from ray import cloudpickle

    from raykd.pipeline import cluster

    # Stand-ins travel whole: workers cannot import a test's module.
    cloudpickle.register_pickle_by_value(request.module)
    failed_before = request.session.testsfailed
    with pytest.MonkeyPatch.context() as patch:
        # Workers inherit it; a runtime_env would have Ray start every one of them a second time.
        environment = cluster.QUIET | cluster.WORKER_ENVIRONMENT | cluster.NOBODY_TO_ASK
        environment |= ray_environment
        for name, value in environment.items():
            patch.setenv(name, value)
        SHARED.use(environment)
        yield
    cloudpickle.unregister_pickle_by_value(request.module)
    if request.session.testsfailed > failed_before:
        # What a failure left must not fail the next module.
        SHARED.stop()


@pytest.fixture
def distil(ray_cluster: None) -> Distil:
    """Run a job in this process, on the module's cluster."""
    from rich.console import Console

    from raykd.pipeline.distill import distill
    from raykd.pipeline.run_dir import RunDirectory
    from raykd.pipeline.teacher import Parts
    from raykd.telemetry.progress import Progress

    def run(job: Any, *, resume: bool = False, parts: Parts = Parts()) -> Ran:
        out = io.StringIO()
        with Progress(Console(file=out, width=120), job.name, replicas=1) as progress:
            report = distill(job, progress, resume=resume, parts=parts)
        return Ran(RunDirectory.of(job).root, out.getvalue(), report)

    return run


@pytest.fixture
def one_teacher(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose teachers are alike ask one that is kept."""
    from raykd.pipeline import distill as story
    from raykd.pipeline import probe

    start = story.start_teacher

    def start_once(job: Any, models: Any, parts: Any) -> KeptTeacher:
        key = (parts.engine_class, job.teacher, models.teacher)
        return SHARED.teacher(key, lambda: start(job, models, parts))

    monkeypatch.setattr(story, "start_teacher", start_once)
    monkeypatch.setattr(probe, "start_teacher", start_once)
    # A run that goes on would take it for what a killed driver left.
    monkeypatch.setattr(story, "remove_left_over", lambda job: False)
