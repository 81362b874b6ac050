"""One Ray and one teacher for all modules of tests: starting them takes longer than most tests."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class SharedRay:
    """A Ray of four logical CPUs, as long as its workers' environment is the one that is wanted."""

    def __init__(self) -> None:
        self._environment: dict[str, str] | None = None
        self._directory = ""
        self._teacher: tuple[Any, Any] | None = None

    def use(self, environment: Mapping[str, str]) -> None:
        """Have a Ray whose workers inherited `environment` from this process; another one ends."""
        if self._environment == dict(environment):
            return
        self.stop()
        import ray

        # Sockets lie in it, and their paths may have no more than 107 characters.
        self._directory = tempfile.mkdtemp(prefix="rk", dir="/tmp")
        ray.init(
            address="local",
            num_cpus=4,
            _temp_dir=self._directory,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        self._environment = dict(environment)

    def teacher(self, key: Any, start: Any) -> KeptTeacher:
        """The teacher of `key`, which `start` starts; one of another key ends."""
        if self._teacher is None or self._teacher[0] != key:
            self.dismiss()
            self._teacher = (key, start())
        return KeptTeacher(self._teacher[1])

    def dismiss(self) -> None:
        """Take the teacher down."""
        if self._teacher is not None:
            self._teacher[1].stop()
            self._teacher = None

    def stop(self) -> None:
        """End Ray, where it runs."""
        if self._environment is None:
            return
        import ray
        from ray import serve

        self._environment = self._teacher = None
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)


class KeptTeacher:
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


SHARED = SharedRay()
"""Of this process: Ray can be started only once in it."""
