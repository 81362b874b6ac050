"""A Ray cluster a module, one way to run a job on it, a time limit on every test."""

from __future__ import annotations

import faulthandler
import io
import logging
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from .runs import Distil, Ran

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


@pytest.fixture(scope="module")
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster of four logical CPUs for this module alone."""
    from raykd.pipeline import cluster

    # Sockets lie in it, and their paths may have no more than 107 characters.
    directory = tempfile.mkdtemp(prefix="rk", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        # Workers inherit it; a runtime_env would have Ray start every one of them a second time.
        for name, value in (cluster.QUIET | cluster.WORKER_ENVIRONMENT).items():
            patch.setenv(name, value)
        import ray
        from ray import cloudpickle, serve

        # Stand-ins travel whole: workers cannot import a test's module.
        cloudpickle.register_pickle_by_value(request.module)
        ray.init(
            address="local",
            num_cpus=4,
            _temp_dir=directory,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(directory, ignore_errors=True)


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
def one_teacher(ray_cluster: None, once: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs of a module ask one teacher, which starts with the first: starting takes longest."""
    from raykd.pipeline import distill as story

    start = story.start_teacher

    def start_once(job: Any, models: Any, parts: Any) -> Any:
        if "teacher" not in once:
            once["teacher"] = start(job, models, parts)
        return _KeptTeacher(once["teacher"])

    monkeypatch.setattr(story, "start_teacher", start_once)
    # A run that goes on would take it for what a killed driver left.
    monkeypatch.setattr(story, "remove_left_over", lambda job: False)


class _KeptTeacher:
    """A teacher that one run stops asking while the next can still ask it."""

    def __init__(self, teacher: Any) -> None:
        self._teacher = teacher
        self.is_running = True

    def wait(self, job: Any, models: Any) -> None:
        if not hasattr(self._teacher, "facts"):
            self._teacher.wait(job, models)
        self.client, self.facts = self._teacher.client, self._teacher.facts

    def watched(self, *_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def stop(self) -> None:
        self.is_running = False
