"""`capacity`: what becomes of a run whose nodes do not come."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raykd.config.section import Section


class CapacityConfig(Section):
    """Waiting for the nodes of a cluster that scales itself."""

    wait_s: float = Field(
        900.0,
        gt=0,
        description="Longest wait for nodes that the run cannot go on without, on a cluster that "
        "scales itself; each wait begins anew. Elsewhere nothing is waited for.",
    )
    then: Literal["stop", "smaller"] = Field(
        "stop",
        description="After that: `stop` ends the run, `smaller` goes on with the teacher replicas "
        "that are up, at least one, and with as many ranks as fit and divide the global batch.",
    )
