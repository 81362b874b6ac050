"""One driver as a process of its own, again and again.

`python -m tests.chaos.driver JOB.yaml [ADDRESS STEP_S]`: on the Ray there, or on one of its own;
a step takes so many seconds longer than it would.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import cloudpickle
from rich.console import Console

from raykd.config.load import load_job
from raykd.pipeline import cluster
from raykd.pipeline.distill import distill
from raykd.pipeline.teacher import Parts
from raykd.telemetry.progress import Progress
from tests.chaos import harness


def main() -> None:
    """Begin the run, or go on with it."""
    # Workers cannot import what belongs to the tests.
    cloudpickle.register_pickle_by_value(harness)
    job = load_job(Path(sys.argv[1]), [])
    if len(sys.argv) > 3:
        harness.NotingStudent.STEP_S = float(sys.argv[3])
    with connected(), Progress(Console(), job.name) as progress:
        distill(job, progress, resume=True, parts=Parts(student_class=harness.NotingStudent))


@contextmanager
def connected() -> Iterator[None]:
    """The nodes have the workers' environment; a runtime_env would start each of them twice."""
    if len(sys.argv) < 3:
        with cluster.connect("local"):
            yield
        return
    ray.init(address=sys.argv[2], log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


if __name__ == "__main__":
    main()
