"""What the autoscaler says of the nodes it starts, and what the provider said when one failed."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.pipeline import nodes
from raykd.telemetry.units import duration

LOG_TAIL_BYTES = 65_536
FAILED = re.compile(
    r"^(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+\s.*?"
    r"Failed to launch (?P<count>\d+) nodes of type (?P<kind>\S+): (?P<reason>.*)$",
    re.MULTILINE,
)
PLAIN = (
    (
        r"InsufficientInstanceCapacity|InsufficientHostCapacity|ZONE_RESOURCE_POOL_EXHAUSTED|"
        r"SkuNotAvailable|OverconstrainedAllocation|AllocationFailed|stockout",
        "the provider has no such machine free in these zones now; wait, or name more zones or "
        "another machine",
    ),
    (
        r"VcpuLimitExceeded|InstanceLimitExceeded|MaxSpotInstanceCountExceeded|QuotaExceeded|"
        r"QUOTA_EXCEEDED|quota",
        "the account's quota is used up; ask the provider to raise it",
    ),
    (
        r"UnauthorizedOperation|AccessDenied|AuthFailure|AuthorizationFailed|PERMISSION_DENIED|"
        r"forbidden",
        "the head has no right to start it; look at its role or service account",
    ),
    (
        r"InvalidAMIID|InvalidSubnet|InvalidParameter|Invalid value|ParamValidation",
        "the provider refuses the node's configuration; `raykd check --cluster FILE` looks at it",
    ),
)
"""What providers call a failure, and what it means."""


@dataclass(frozen=True)
class Launches:
    """Nodes on their way, by node type.

    Attributes:
        asked: Asked for, not yet given.
        starting: Given, and starting Ray.
        failed: Type, Unix time in seconds and reason of the newest failure of each.
    """

    asked: dict[str, int]
    starting: dict[str, int]
    failed: dict[str, tuple[float, str]]

    def told(self, now: float | None = None) -> str:
        """In words; empty where nothing is on its way."""
        parts = [f"{n} {kind} asked for" for kind, n in sorted(self.asked.items())]
        parts += [f"{n} {kind} starting" for kind, n in sorted(self.starting.items())]
        for kind, (at, reason) in sorted(self.failed.items()):
            ago = duration((time.time() if now is None else now) - at)
            parts.append(f"a {kind} could not be started {ago} ago: {plain_words(reason)}")
        return ", ".join(parts)


def launches(state: Any, since: float) -> Launches:
    """Of the cluster's status.

    Args:
        state: The autoscaler's part of `cluster.status`.
        since: Unix seconds; failures before that are not of interest.
    """
    asked: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        asked[request.ray_node_type_name] += request.count
    failed = {
        request.ray_node_type_name: (float(request.failed_ts), request.reason)
        for request in sorted(state.failed_instance_requests, key=lambda each: each.failed_ts)
        if request.failed_ts >= since
    }
    # The provider's own words are only in the log of the autoscaler, on the head.
    failed |= nodes.on_the_head(failures_in_log, since) or {}
    starting = Counter(instance.ray_node_type_name for instance in state.pending_instances)
    return Launches(dict(asked), dict(starting), failed)


def failures_in_log(since: float) -> dict[str, tuple[float, str]]:
    """On the head: of each node type, when it could last not be started, and what was said."""
    import ray

    node: Any = ray._private.worker._global_node
    log = Path(node.get_session_dir_path()) / "logs" / "monitor.log"
    if not log.is_file():
        return {}
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return failures(file.read().decode(errors="replace"), since)


def failures(log: str, since: float) -> dict[str, tuple[float, str]]:
    """What the autoscaler's log says of launches that failed; the newest of each type."""
    found = {}
    for line in FAILED.finditer(log):
        at = time.mktime(time.strptime(line["at"], "%Y-%m-%d %H:%M:%S"))
        if at >= since - 1:
            found[line["kind"]] = (at, line["reason"].strip())
    return found


def plain_words(reason: str) -> str:
    """What a provider's message means, and the message."""
    said = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    for pattern, meaning in PLAIN:
        if re.search(pattern, reason, re.IGNORECASE):
            return f"{meaning} ({said})"
    return said
