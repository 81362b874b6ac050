"""On the cluster: variables that a submission named must be set where the job runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from raykd.errors import ResourceError
from raykd.pipeline import nodes


def missing(names: Sequence[str]) -> list[str]:
    """Those that are not set, or empty, in this process."""
    return [name for name in names if not os.environ.get(name)]


def require_everywhere(names: Sequence[str]) -> None:
    """Refuse to begin where a variable is missing in this driver or on a node that is up.

    Values are never read further than to see whether there is one.

    Raises:
        ResourceError: Names each variable and where it is missing.
    """
    if not names:
        return
    lacking = {"the driver": missing(names)}
    for node, answer in nodes.on_every_node(missing, list(names)).items():
        if isinstance(answer, BaseException):
            raise ResourceError(f"--require-env: node {node} did not answer: {answer}") from None
        lacking[f"node {node}"] = answer
    told = [f"{where} lacks {', '.join(found)}" for where, found in lacking.items() if found]
    if told:
        raise ResourceError(
            f"--require-env: {'; '.join(told)}. Set it where Ray is started on each node (a "
            "Kubernetes Secret, the service's environment); see docs/security.md"
        )
