"""Real Ray nodes on this machine by `ray start`, each a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
STARTS_WITHIN_S = 120


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(
    done: Callable[[], bool],
    what: str,
    within_s: float = STARTS_WITHIN_S,
    why: Callable[[], str] = str,
) -> None:
    """Until something is true, or a test fails and says `why`."""
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, f"{what} took more than {within_s} s\n{why()}"
        time.sleep(0.2)


@dataclass
class Node:
    """One `ray start --block`."""

    process: subprocess.Popen[bytes]
    log: Path

    def pids(self) -> list[int]:
        """Of all that it started and that still belong to it."""
        own = psutil.Process(self.process.pid)
        return [own.pid, *(child.pid for child in own.children(recursive=True))]

    def ask_to_stop(self) -> list[psutil.Process]:
        """Have it end what it started, as `--block` does; returns what that is."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        return started

    def see_stopped(self, started: list[psutil.Process]) -> None:
        """Wait for it; what is left of what it started is killed, and nothing else."""
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for child in psutil.wait_procs(started, timeout=10)[1]:
            child.kill()


@dataclass
class Cluster:
    """A head with a dashboard, and the nodes that joined it.

    Args:
        place: A short directory, for Ray's sockets lie in it.
        environment: What every node's processes see.
    """

    place: Path
    environment: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port, self.dashboard_port = free_ports(2)
        # Nothing is left to drain when a node ends.
        self.environment = self.environment | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}

    @property
    def url(self) -> str:
        """Of the job API."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def session(self) -> Path:
        """Where Ray keeps its logs."""
        return (self.place / "ray" / "session_latest").resolve()

    def start_head(self, *options: str) -> Node:
        """The head, with a dashboard as Ray starts it by default."""
        return self._start(
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={free_ports(1)[0]}",
            f"--temp-dir={self.place / 'ray'}",
            *options,
        )

    def join(self, *options: str) -> Node:
        """A second node."""
        return self._start(f"--address=127.0.0.1:{self.port}", *options)

    def _start(self, *options: str) -> Node:
        agent, grpc = free_ports(2)
        command = [
            str(BIN / "ray"),
            "start",
            "--block",
            *options,
            f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--disable-usage-stats",
        ]
        log = self.place / f"node-{len(self.nodes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(process, log)
        self.nodes.append(node)
        wait_for(lambda: self._is_up(node), f"ray start ({log})")
        return node

    def _is_up(self, node: Node) -> bool:
        said = node.log.read_text()
        assert node.process.poll() is None, said
        return "Ray runtime started" in said

    def stop(self) -> None:
        """All nodes at once."""
        live = [node for node in reversed(self.nodes) if node.process.poll() is None]
        for node, started in [(node, node.ask_to_stop()) for node in live]:
            node.see_stopped(started)
