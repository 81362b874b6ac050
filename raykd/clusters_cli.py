"""`raykd check --cluster`: what the rules say, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.command import say

if TYPE_CHECKING:
    from rich.console import Console

    from raykd.config.job import Job


def check_cluster_file(console: Console, path: Path, job: Job | None) -> int:
    """Print what is found in a cluster file.

    Args:
        console: Where to.
        path: The cluster file.
        job: The job that has to find its place there, if any.

    Returns:
        How many things have to be fixed.

    Raises:
        JobError: It is no cluster file.
    """
    from raykd.clusters.check import check_cluster

    findings = check_cluster(path, job)
    for finding in findings:
        place = (
            "" if finding.level == "ok" else f"{path}{f':{finding.line}' if finding.line else ''} "
        )
        say(console, f"{finding.level:<9} {place}{finding.subject}: {finding.text}")
    return sum(finding.level == "fix this" for finding in findings)
