"""Does raykd's plumbing keep both sides busy?

Rate of the real Data -> Serve -> Train path with a teacher and a student that only sleep, over the
rate of the slower of the two. Each step is one block and one request. Teacher and student are
equally fast together, which is the hard case: neither can wait for the other without a loss.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import record
from rich.table import Table
from standins import Course, Sleep, job_of, own_ray, train_asleep

TARGET = 0.95
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Case:
    """How fast each side is."""

    replicas: int
    block_s: float
    """Seconds of a replica on one block, on average."""
    cv: float = 0.0
    """Standard deviation over mean, of replicas and student."""

    @property
    def name(self) -> str:
        """Such as `4:1-400ms`."""
        jitter = "-jitter" if self.cv else ""
        return f"{self.replicas}:1-{self.block_s * 1000:.0f}ms{jitter}"

    @property
    def ideal(self) -> float:
        """Blocks a second of either side."""
        return self.replicas / self.block_s

    @property
    def has_target(self) -> bool:
        """Whether a least share is asked of it."""
        return not self.cv and self.block_s >= 0.4


CASES = [
    Case(replicas, block_s, cv)
    for replicas in (1, 4)
    for block_s, cv in ((0.4, 0.0), (0.1, 0.0), (0.4, 0.5))
]


def run_case(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train through the whole path once."""
    with own_ray() as root:
        job = job_of(
            root,
            "pipeline",
            teacher={"replicas": case.replicas},
            train={"max_steps": arguments.fill + arguments.steps},
            stream={"requests_in_flight": arguments.in_flight},
        )
        course = train_asleep(job, Sleep(case.block_s, case.cv), Sleep(1 / case.ideal, case.cv))
    return {"case": case.name, **asdict(case), **measured(case, course, arguments.fill)}


def measured(case: Case, course: Course, fill: int) -> dict[str, Any]:
    """Rates and losses after the first `fill` steps.

    A teacher that began earlier has blocks in store, behind which it could be too slow unseen: the
    rate is that of the slower side, the teacher's from the same moment to its last request.
    """
    ends = np.array([step.time for step in course.steps])
    start, stop = ends[fill - 1], ends[-1]
    steps, window = course.steps[fill:], stop - start
    began, ended = course.requests[course.requests[:, 1] > start].T
    student_rate = len(steps) / window
    teacher_rate = (len(ended) - 1) / (ended[-1] - ended[0]) if len(ended) > 1 else student_rate
    waited = sum(step.wait_s for step in steps)
    slept = sum(step.loss for step in steps)
    # What the naps really were, on average: with jitter, two hundred draws miss their mean.
    drawn = min(case.replicas / float((ended - began).mean()), len(steps) / slept)
    rate = min(student_rate, teacher_rate)
    return {
        "ideal_blocks_s": case.ideal,
        "drawn_blocks_s": drawn,
        "student_blocks_s": student_rate,
        "teacher_blocks_s": teacher_rate,
        "share": rate / drawn if case.cv else rate / case.ideal,
        "reachable_share": reachable(case, len(steps)),
        "student_wait_share": waited / window,
        "student_overhead_ms": 1000 * (window - waited - slept) / len(steps),
        "teacher_idle_share": 1 - busy_s(began, ended) / case.replicas / (ended[-1] - ended[0]),
        "lead_blocks_start": int((course.requests[:, 1] <= start).sum()) - fill,
        "lead_blocks_end": int((course.requests[:, 1] <= ended[-1]).sum())
        - int((ends <= ended[-1]).sum()),
        "slowest_step_s": max(step.seconds for step in steps),
        "blocks_each_s": np.bincount((ends[fill:] - start).astype(int)).tolist(),
    }


def busy_s(began: Any, ended: Any) -> float:
    """Seconds of work between the first request's end and the last one's."""
    return float((ended - np.maximum(began, ended[0])).clip(min=0).sum())


def reachable(case: Case, num_steps: int, runs: int = 200) -> float:
    """Share that plumbing without any cost would reach: jitter makes either side wait."""
    if not case.cv:
        return 1.0
    shares = [_reachable_once(case, num_steps, seed) for seed in range(runs)]
    return float(np.mean(shares))


def _reachable_once(case: Case, num_steps: int, seed: int) -> float:
    teacher = Sleep(case.block_s, case.cv).draws(2 * seed)
    student = Sleep(1 / case.ideal, case.cv).draws(2 * seed + 1)
    free, delivered, done = np.zeros(case.replicas), 0.0, 0.0
    naps, first = np.zeros(2), 0.0
    for step in range(num_steps):
        nap = np.array([next(teacher), next(student)])
        replica = int(free.argmin())
        free[replica] += nap[0]
        delivered = max(delivered, free[replica])
        done = max(done, delivered) + nap[1]
        first, naps = (done, naps) if step == 0 else (first, naps + nap)
    return float(max(naps[0] / case.replicas, naps[1]) / (done - first))


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a case."""
    table = Table(title="Data -> Serve -> Train, both sides asleep")
    for name in (
        "case",
        "ideal/s",
        "measured/s",
        "share of ideal",
        "reachable",
        "student waits",
        "student's own",
        "teacher idle",
        "lead",
        "slowest step",
    ):
        table.add_column(name, justify="left" if name == "case" else "right")
    for one in results:
        good = one["share"] >= TARGET * one["reachable_share"]
        table.add_row(
            one["case"],
            f"{one['ideal_blocks_s']:.2f}",
            f"{min(one['student_blocks_s'], one['teacher_blocks_s']):.2f}",
            f"[{'green' if good else 'yellow'}]{one['share']:.3f}[/]",
            f"{one['reachable_share']:.3f}",
            f"{one['student_wait_share']:.1%}",
            f"{one['student_overhead_ms']:.1f} ms",
            f"{one['teacher_idle_share']:.1%}",
            f"{one['lead_blocks_start']} to {one['lead_blocks_end']}",
            f"{one['slowest_step_s']:.2f} s",
        )
    return table


def bars(counts: list[int]) -> str:
    """Blocks of each second as a line of bars."""
    most = max(1, *counts)
    return "".join(BARS[round(count / most * (len(BARS) - 1))] for count in counts)


def main() -> None:
    """Run the cases one after the other, each on a fresh Ray."""
    parser = record.parser(__doc__, CASES)
    parser.add_argument("--steps", type=int, default=200, help="Steps that count.")
    parser.add_argument("--fill", type=int, default=20, help="First steps, which do not count.")
    parser.add_argument("--in-flight", type=int, help="stream.requests_in_flight.")
    arguments = parser.parse_args()
    console, on, results = record.console(), record.machine(), []
    for case in record.chosen(CASES, arguments):
        one = run_case(case, arguments)
        results.append(one)
        console.print(
            f"{case.name:16} {one['share']:.3f} of the ideal rate; blocks each second, most "
            f"{max(one['blocks_each_s'])}:\n  {bars(one['blocks_each_s'])}",
            highlight=False,
        )
    console.print(table_of(results))
    if not arguments.no_write:
        conditions = {
            "steps": arguments.steps,
            "fill": arguments.fill,
            "requests_in_flight": arguments.in_flight or "default",
            "sequence_length_tokens": 256,
            "top_k": 64,
            "rows_a_block": 2,
        }
        console.print(f"written to {record.write('pipeline', on, conditions, results)}")


if __name__ == "__main__":
    main()
