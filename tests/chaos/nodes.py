"""Several Ray nodes on one machine: a head, and a node for each role that can be lost at once."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

ROLE = "raykd-role"
"""The label that teacher and student nodes carry."""
ROLES = {"teacher node": "teacher", "student node": "student"}
"""Nodes as victims."""
_NOTICED = {
    # A node that says nothing is dead after four seconds, not twenty.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """The nodes of one cluster.

    Args:
        directory: For Ray's files; sockets lie in it, whose paths may have no more than 107
            characters.
    """

    def __init__(self, directory: str) -> None:
        from ray.cluster_utils import Cluster

        # Nodes come up in a thread too, where no signal's handler can be set.
        self._cluster = Cluster(shutdown_at_exit=False)
        self._cluster.add_node(
            num_cpus=1,
            temp_dir=directory,
            include_dashboard=False,
            _system_config=_NOTICED,
        )
        self._of_role: dict[str, Any] = {}
        for role in ROLES.values():
            self._add(role)

    @property
    def address(self) -> str:
        """Where a driver attaches."""
        return str(self._cluster.address)

    def _add(self, role: str) -> None:
        self._of_role[role] = self._cluster.add_node(num_cpus=2, labels={ROLE: role})

    def lose(self, role: str) -> int:
        """All that runs on a role's node dies in one moment; a new node comes up.

        Returns:
            The process id of the raylet that died.
        """
        node = self._of_role.pop(role)
        (started,) = node.all_processes["raylet"]
        raylet = psutil.Process(started.process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._cluster.remove_node(node, allow_graceful=False)
        self._add(role)
        return raylet.pid

    def stop(self) -> None:
        """Take all nodes down."""
        self._cluster.shutdown()


@contextmanager
def started() -> Iterator[Nodes]:
    """Nodes while the block runs; no driver is attached."""
    from raykd.pipeline import cluster

    directory = tempfile.mkdtemp(prefix="rk", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        # Workers inherit it; a runtime_env would have Ray start every one of them a second time.
        environment = cluster.QUIET | cluster.LOCAL | cluster.WORKER_ENVIRONMENT
        for name, value in (environment | cluster.NOBODY_TO_ASK).items():
            patch.setenv(name, value)
        # A test that is ended takes its nodes with it.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        nodes = Nodes(directory)
        try:
            yield nodes
        finally:
            nodes.stop()
            signal.signal(signal.SIGTERM, before)
            shutil.rmtree(directory, ignore_errors=True)
