"""What Ray Serve says of the teacher's replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

DEPLOYMENT = "teacher"
_COMING = ("STARTING", "UPDATING", "RECOVERING")
_SERVING = ("RUNNING", "PENDING_MIGRATION")


@dataclass(frozen=True)
class ReplicaCounts:
    """Replicas by what they do."""

    running: int
    starting: int


def replica_counts(app: str) -> ReplicaCounts | None:
    """The replicas of an app; None where Serve does not answer, or has no such app.

    Waits while the controller is being restarted.
    """
    try:
        found = serve.status().applications.get(app)
    except (RayServeException, ray.exceptions.RayError):
        return None
    if found is None or DEPLOYMENT not in found.deployments:
        return None
    states: dict[Any, int] = found.deployments[DEPLOYMENT].replica_states
    return ReplicaCounts(
        running=sum(states.get(state, 0) for state in _SERVING),
        starting=sum(states.get(state, 0) for state in _COMING),
    )


def answers(app: str) -> bool:
    """Whether at least one replica runs."""
    counts = replica_counts(app)
    return counts is not None and counts.running > 0
