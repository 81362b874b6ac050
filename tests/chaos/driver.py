"""One driver as a process of its own: `python -m tests.chaos.driver JOB.yaml`, again and again."""

from __future__ import annotations

import sys
from pathlib import Path

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
    with cluster.connect("local"), Progress(Console(), job.name) as progress:
        distill(job, progress, resume=True, parts=Parts(student_class=harness.NotingStudent))


if __name__ == "__main__":
    main()
