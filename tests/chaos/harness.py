"""Kill processes of a run, and find what a run lost, learned twice or learned differently.

What is looked at is what the run itself left: `metrics.jsonl`, and the row ids that each rank wrote
down in each step of each of its lives.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StepResult, Wish

from .nodes import ROLES, Nodes

VICTIMS = {
    "rank": "ray::RayTrainWorker",
    "shard": "ray::Shard",
    "replica": "ray::ServeReplica",
    "controller": "ray::ServeController",
    "loader": "ray::MapWorker",
}
"""How the processes of a run are called."""
DRIVER = "-m tests.chaos.driver"
"""How a driver is called that is a process of its own."""


class NotingStudent(ZeroStudent):
    """Writes down the rows of every step, and takes its time, so that a kill meets it at work."""

    STEP_S = 0.2

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        import torch.distributed as dist

        time.sleep(self.STEP_S)
        result = super().train_step(rows, step, wait_s, wish)
        file = Path(self._job.storage_path) / f"{self._job.name}.rows.{dist.get_rank()}.jsonl"
        line = {"step": step + 1, "rows": rows.column("row").to_pylist(), "loss": result.loss}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        return result


@dataclass(frozen=True)
class Kill:
    """Whom to kill, once so many steps are in the metrics."""

    victim: str
    after_step: int
    delay_s: float = 0.0
    """How long after that."""
    which: int = 0
    """Of the processes with that name, by process id, again from the first after the last."""


@dataclass
class Killer:
    """Kills in a thread of its own while the run goes on; `with Killer(...) as killer`."""

    metrics: Path
    kills: Sequence[Kill]
    nodes: Nodes | None = None
    """Where whole nodes are among the victims."""
    done: list[tuple[Kill, int]] = field(default_factory=list)
    """What was killed, with its process id."""

    def __enter__(self) -> Killer:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        for kill in self.kills:
            while steps_of(self.metrics) < kill.after_step:
                if self._ended.wait(0.05):
                    return
            if self._ended.wait(kill.delay_s):
                return
            pid = self._lose_node(kill) if kill.victim in ROLES else None
            while pid is None and (pid := strike(kill)) is None:
                if self._ended.wait(0.05):
                    return
            # Seen where a test fails.
            print(f"after step {steps_of(self.metrics)}: {kill.victim}, process {pid}", flush=True)
            self.done.append((kill, pid))

    def _lose_node(self, kill: Kill) -> int:
        assert self.nodes is not None
        return self.nodes.lose(ROLES[kill.victim])


def strike(kill: Kill) -> int | None:
    """Kill one process of this test's own; its id, or None while there is none."""
    found = find(kill.victim)
    if not found:
        return None
    victim = found[kill.which % len(found)]
    try:
        victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    return victim.pid


def find(victim: str) -> list[psutil.Process]:
    """Processes of this test's own cluster, or its driver, that live; by process id."""
    name = DRIVER if victim == "driver" else VICTIMS[victim]
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and name in " ".join(process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def steps_of(metrics: Path) -> int:
    """The last step in the metrics, 0 where there is none yet."""
    try:
        return len(metrics.read_text().splitlines())
    except OSError:
        return 0


def complaints(
    root: Path, num_steps: int, global_batch: int, expected_losses: Sequence[float] | None = None
) -> list[str]:
    """What is wrong with a run that has ended; nothing, if each row was learned from exactly once.

    Args:
        root: The run directory, of a run with `NotingStudent`.
        num_steps: Of the run.
        global_batch: Rows of a step.
        expected_losses: Of the run that nothing happened to; None does not compare them.
    """
    steps = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    found = _order(steps, num_steps, global_batch)
    noted = noted_rows(root)
    for step in range(1, num_steps + 1):
        rows = sorted(row for lives in noted[step].values() for row in lives[-1])
        if rows != list(range((step - 1) * global_batch, step * global_batch)):
            found.append(f"step {step}: the ranks learned from rows {rows}")
        for rank, lives in noted[step].items():
            if any(life != lives[0] for life in lives):
                found.append(f"step {step}: rank {rank} learned from other rows in another life")
    if expected_losses is not None:
        found += [
            f"step {step['step']}: loss {step['loss']!r}, expected {loss!r}"
            for step, loss in zip(steps, expected_losses, strict=False)
            if step["loss"] != loss
        ]
    return found


def _order(steps: list[dict[str, Any]], num_steps: int, global_batch: int) -> list[str]:
    seen = [step["step"] for step in steps]
    found = []
    if seen != list(range(1, num_steps + 1)):
        found.append(f"metrics have the steps {seen}")
    found += [
        f"step {step['step']}: metrics say rows {step['row_start']} to {step['row_end']}"
        for step in steps
        if (step["row_start"], step["row_end"])
        != ((step["step"] - 1) * global_batch, step["step"] * global_batch)
    ]
    return found


def noted_rows(root: Path) -> dict[int, dict[int, list[list[int]]]]:
    """By step and rank, the rows of each life."""
    noted: dict[int, dict[int, list[list[int]]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(root.parent.glob(f"{root.name}.rows.*.jsonl")):
        rank = int(file.suffixes[-2].removeprefix("."))
        for line in file.read_text().splitlines():
            one = json.loads(line)
            noted[one["step"]][rank].append(one["rows"])
    return noted
