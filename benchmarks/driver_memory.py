"""Does the driver's memory stay flat, however long the run and however many ids are kept?

Resident memory of the driver from step 100 to step 2,000, with a teacher and a student that do
nothing but pass rows on, for a small and a large top_k. Each runs in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import record
from rich.table import Table
from standins import Sleep, job_of, own_ray, train_asleep

MIB = 2**20
TARGET_MIB = 50e6 / MIB
EVERY_S = 0.5


class MemorySeries:
    """Samples this process's memory in a thread."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.resident: list[int] = []
        self.own: list[int] = []
        """Resident, without what is shared with Ray's object store and other processes."""
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            memory = process.memory_info()
            self.times.append(time.time())
            self.resident.append(memory.rss)
            self.own.append(memory.rss - memory.shared)
            time.sleep(EVERY_S)

    def at(self, when: float) -> tuple[float, float]:
        """(resident, own) in MiB at a moment."""
        return tuple(
            float(np.interp(when, self.times, values)) / MIB for values in (self.resident, self.own)
        )


def run_one(top_k: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """This process is the driver of one run."""
    with own_ray() as root:
        job = job_of(
            root,
            "memory",
            soft_targets={"top_k": top_k},
            data={"sequence_length_tokens": arguments.tokens},
            train={"max_steps": arguments.stop},
        )
        series = MemorySeries()
        course = train_asleep(job, Sleep(0.0), Sleep(0.0))
    ends = {step.step: step.time for step in course.steps}
    marks = sorted({arguments.start, *range(500, arguments.stop, 500), arguments.stop})
    inside = [
        own
        for when, own in zip(series.times, series.resident, strict=True)
        if ends[arguments.start] <= when <= ends[arguments.stop]
    ]
    resident = {str(mark): series.at(ends[mark])[0] for mark in marks}
    own = {str(mark): series.at(ends[mark])[1] for mark in marks}
    first, last = str(arguments.start), str(arguments.stop)
    seconds = ends[arguments.stop] - ends[arguments.start]
    return {
        "top_k": top_k,
        "resident_mib": resident,
        "own_mib": own,
        "growth_mib": resident[last] - resident[first],
        "own_growth_mib": own[last] - own[first],
        "most_above_start_mib": max(inside) / MIB - resident[first],
        "steps_s": (arguments.stop - arguments.start) / seconds,
        "target_bytes_a_step": job.train.global_batch * (arguments.tokens - 1) * top_k * 8,
    }


def run_child(top_k: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """This script again, for one top_k."""
    given = [f"--start={arguments.start}", f"--stop={arguments.stop}"]
    given += [f"--tokens={arguments.tokens}", f"--one={top_k}"]
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), *given], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a top_k."""
    table = Table(title="Resident memory of the driver, MiB")
    table.add_column("top_k", justify="right")
    for mark in results[0]["resident_mib"]:
        table.add_column(f"step {int(mark):,}", justify="right")
    for name in ("growth", "highest", "without shared", "steps/s"):
        table.add_column(name, justify="right")
    for one in results:
        good = "green" if one["growth_mib"] < TARGET_MIB else "yellow"
        table.add_row(
            str(one["top_k"]),
            *(f"{value:.1f}" for value in one["resident_mib"].values()),
            f"[{good}]{one['growth_mib']:+.1f}[/]",
            f"{one['most_above_start_mib']:+.1f}",
            f"{one['own_growth_mib']:+.1f}",
            f"{one['steps_s']:.1f}",
        )
    return table


def main() -> None:
    """Run each top_k in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=100, help="Compare from this step.")
    parser.add_argument("--stop", type=int, default=2000, help="Compare to this step, the last.")
    parser.add_argument("--top-k", type=int, nargs="+", default=[8, 512], help="Ids kept.")
    parser.add_argument("--tokens", type=int, default=256, help="Tokens of a row; two rows a step.")
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments)))
        return
    console, on = record.console(), record.machine()
    results = [run_child(top_k, arguments) for top_k in arguments.top_k]
    console.print(table_of(results))
    if not arguments.no_write:
        conditions = {
            "steps": [arguments.start, arguments.stop],
            "tokens_a_row": arguments.tokens,
            "rows_a_step": 2,
        }
        console.print(f"written to {record.write('driver_memory', on, conditions, results)}")


if __name__ == "__main__":
    main()
