"""A run under fire beside the same run that nothing happens to, each by drivers of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.runs import read_steps

from .harness import VICTIMS, Kill, Killer, complaints, noted_rows
from .nodes import ROLE, ROLES, Nodes

ALL_VICTIMS = (*VICTIMS, *ROLES, "driver")
BATCH, STEPS_A_KILL, STEP_S = 4, 3, 0.3
STEPS_AFTER = 8
"""The run goes on so long after the last kill."""
CHANGES: dict[str, dict[str, Any]] = {
    "teacher": {"max_retries": 50, "labels": {ROLE: "teacher"}},
    "student": {"num_workers": 2, "zero_stage": 2, "labels": {ROLE: "student"}},
    "train": {"epochs": 99, "micro_batch": 1},
    "stream": {"steps_per_block": 2},
    # What an earlier epoch kept would spare the teacher.
    "soft_targets": {"store_mode": "off"},
    "checkpoint": {"every_steps": 5, "keep": 2, "max_failures": 1000},
}
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    kills: tuple[Kill, ...]
    """Those that were done."""
    driver_deaths: int
    made_again: int
    """Steps that a rank made in more than one life."""
    complaints: list[str]
    seconds: dict[str, float]
    """Of each run."""

    def __str__(self) -> str:
        victims = dict(Counter(kill.victim for kill in self.kills))
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return f"{len(self.kills)} kills {victims}; {self.made_again} steps made again; {took}"


def kills_of(seed: int, num_kills: int) -> list[Kill]:
    """Every victim equally often, give or take one; order and moments are random."""
    draw = random.Random(seed)
    each, more = divmod(num_kills, len(ALL_VICTIMS))
    chosen = list(ALL_VICTIMS) * each + draw.sample(ALL_VICTIMS, more)
    draw.shuffle(chosen)
    return [
        Kill(
            victim,
            after_step=1 + STEPS_A_KILL * i + draw.randrange(STEPS_A_KILL),
            delay_s=draw.choice([0.0, draw.uniform(0.0, 2.0)]),
            which=draw.randrange(100),
        )
        for i, victim in enumerate(chosen)
    ]


def under_fire(
    kills: list[Kill],
    job_tree: dict[str, Any],
    write_job: Callable[..., Path],
    nodes: Nodes,
    log: Path,
    num_shards: int,
) -> Outcome:
    """Run a job twice, once with kills, and compare; a replica of the teacher has `num_shards`."""
    num_steps = max(kill.after_step for kill in kills) + STEPS_AFTER
    tree = {name: {**job_tree.get(name, {}), **changes} for name, changes in CHANGES.items()}
    tree["train"]["max_steps"] = num_steps
    # The teacher's node of two CPUs has room for one replica: what a killed driver left must be
    # gone before the next.
    tree["teacher"] |= {"tensor_parallel": num_shards, "cpus_per_shard": 1.8 / num_shards}
    seconds, deaths, roots = {}, 0, {}
    for name in ("quiet", "killed"):
        job = write_job({**job_tree, **tree, "name": name}, f"{name}.yaml")
        roots[name] = Path(job_tree["storage_path"]) / name
        began = time.monotonic()
        with Killer(
            roots[name] / "metrics.jsonl", kills if name == "killed" else [], nodes
        ) as killer:
            deaths = run_to_the_end(job, nodes, STEP_S if name == "killed" else 0.0, log)
        seconds[name] = time.monotonic() - began
    losses = [step["loss"] for step in read_steps(roots["quiet"])]
    lives = [life for step in noted_rows(roots["killed"]).values() for life in step.values()]
    return Outcome(
        kills=tuple(kill for kill, _ in killer.done),
        driver_deaths=deaths,
        made_again=sum(len(life) - 1 for life in lives),
        complaints=complaints(roots["quiet"], num_steps, BATCH)
        + complaints(roots["killed"], num_steps, BATCH, losses),
        seconds=seconds,
    )


def run_to_the_end(job: Path, nodes: Nodes, step_s: float, log: Path) -> int:
    """Give the same command until it is done, as a job system does; how often it was killed."""
    command = [sys.executable, "-m", "tests.chaos.driver", str(job), nodes.address, str(step_s)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = 0
    with log.open("ab") as out:
        while True:
            driver = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=environment
            )
            try:
                code = driver.wait()
            finally:
                driver.kill()
            if code == 0:
                return killed
            assert code == -signal.SIGKILL, log.read_text()[-4000:]
            killed += 1
