"""What does it cost when one of n replicas dies in mid-run?

The real Data -> Serve -> Train path with a teacher that sleeps and a student that waits for it. One
replica is killed; until Serve has put another in its place, n - 1 do the work. Printed are the rate
in that time over (n - 1) / n of the rate before, how long it took, and that no step is missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import record
from standins import Course, Sleep, job_of, own_ray, train_asleep

from raykd.pipeline.run_dir import RunDirectory
from raykd.teacher.status import replica_counts

TARGET = 0.9
BLOCK_S = 0.4
STUDENT_SHARE = 0.2
"""A student so much faster than the teacher that only the teacher's rate counts."""
POLL_S = 0.05


@dataclass
class Death:
    """Kills a replica once enough requests are done, and sees when it is replaced."""

    replicas: int
    after_requests: int
    times: dict[str, float] = field(default_factory=dict)
    """Unix seconds of `killed`, `noticed` and `replaced`."""

    def __call__(self, run: RunDirectory) -> None:
        """Runs in a thread beside the training."""
        log = run.logs / "requests.txt"
        while not log.is_file() or log.read_text().count("\n") < self.after_requests:
            time.sleep(POLL_S)
        named = ray.util.list_named_actors(all_namespaces=True)
        victim = next(one for one in named if one["name"].startswith("SERVE_REPLICA::"))
        self.times["killed"] = time.time()
        app = victim["name"].removeprefix("SERVE_REPLICA::").split("#")[0]
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
        self._until("noticed", app, lambda running: running < self.replicas)
        self._until("replaced", app, lambda running: running == self.replicas)

    def _until(self, what: str, app: str, reached: Any) -> None:
        while True:
            counts = replica_counts(app)
            if counts is not None and reached(counts.running):
                self.times[what] = time.time()
                return
            time.sleep(POLL_S)


def measured(course: Course, death: Death, fill: int, num_steps: int) -> dict[str, Any]:
    """Rates before and after, from the ends of requests at their replicas."""
    ends = course.requests[fill:, 1]
    killed, replaced = death.times["killed"], death.times["replaced"]
    before = _rate(ends[ends < killed], ends[0], killed)
    between = _rate(ends[(ends >= killed) & (ends < replaced)], killed, replaced)
    after = _rate(ends[ends >= replaced], replaced, ends[-1])
    left = (death.replicas - 1) / death.replicas
    return {
        "replicas": death.replicas,
        "before_blocks_s": before,
        "between_blocks_s": between,
        "after_blocks_s": after,
        "share_of_those_left": between / (before * left),
        "noticed_s": death.times["noticed"] - killed,
        "recovery_s": replaced - killed,
        "steps": [step.step for step in course.steps] == list(range(1, num_steps + 1)),
        "longest_step_s": max(step.seconds for step in course.steps[fill:]),
    }


def _rate(ends: np.ndarray[Any, Any], start: float, stop: float) -> float:
    return float(len(ends) / (stop - start)) if stop > start else float("nan")


def run_case(replicas: int, seconds: float) -> dict[str, Any]:
    """One run: a third of it before the death."""
    rate = replicas / BLOCK_S
    num_steps, fill = int(rate * seconds), 5 * replicas
    death = Death(replicas, fill + num_steps // 3)
    with own_ray() as root:
        job = job_of(root, "loss", teacher={"replicas": replicas}, train={"max_steps": num_steps})
        student = Sleep(STUDENT_SHARE / rate)
        course = train_asleep(job, Sleep(BLOCK_S), student, during=death)
    return measured(course, death, fill, num_steps)


def main() -> None:
    """Run the cases one after the other, each on a fresh Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--seconds", type=float, default=60.0, help="About how long a case runs.")
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    arguments = parser.parse_args()
    console, on, results = record.console(), record.machine(), []
    for replicas in arguments.replicas:
        one = run_case(replicas, arguments.seconds)
        results.append(one)
        good = one["share_of_those_left"] >= TARGET
        console.print(
            f"{replicas} replicas, one killed: {one['before_blocks_s']:.2f} blocks/s before, "
            f"{one['between_blocks_s']:.2f} without it, {one['after_blocks_s']:.2f} after; "
            f"[{'green' if good else 'red'}]{one['share_of_those_left']:.3f}[/] of what is left of "
            f"the rate (target {TARGET}); noticed after {one['noticed_s']:.1f} s, replaced after "
            f"{one['recovery_s']:.1f} s; every step once: {one['steps']}; longest step "
            f"{one['longest_step_s']:.2f} s",
            highlight=False,
        )
    if not arguments.no_write:
        conditions = {"block_s": BLOCK_S, "seconds": arguments.seconds}
        console.print(f"written to {record.write('replica_loss', on, conditions, results)}")


if __name__ == "__main__":
    main()
