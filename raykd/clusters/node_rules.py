"""What node types should be, whoever runs them: roles, the head, spot."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterator

from raykd.clusters.finding import Finding, consider, fix
from raykd.clusters.hardware import ROLE_LABEL, Hardware, NodeType, Role

HEAD_MEMORY_BYTES = 16 * 2**30
"""Least memory of a head: it holds the cluster's state, the dashboard and the driver."""

Line = Callable[[str], int | None]
"""The line of a node type, by its name."""


def role_findings(hardware: Hardware, line: Line) -> Iterator[Finding]:
    """Role labels: each one known, and on every node type."""
    if hardware.provider == "skypilot":
        return
    roles = typing.get_args(Role)
    for node_type in hardware.node_types:
        given = node_type.labels.get(ROLE_LABEL)
        at = line(node_type.name)
        if given is None and node_type.role != "head":
            yield consider(
                "roles",
                f"{node_type.name}: no label {ROLE_LABEL}; a job places its parts by it: "
                f"{ROLE_LABEL}: teacher",
                at,
            )
        elif given is not None and given not in roles:
            close = difflib.get_close_matches(given, roles, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose {', '.join(roles)}"
            yield fix("roles", f"{node_type.name}: {ROLE_LABEL}: {given!r}; {hint}", at)


def head_findings(hardware: Hardware, line: Line) -> Iterator[Finding]:
    """The head does no work, has memory, and stays."""
    for head in hardware.of_role("head"):
        at = line(head.name)
        if head.cpus > 0 and len(hardware.node_types) > 1:
            yield fix(
                "head",
                f"{head.name} gives out {head.cpus:g} CPUs; work there can take the whole cluster "
                "down: give it 0 (resources CPU, or num-cpus)",
                at,
            )
        if head.gpus:
            yield consider("head", f"{head.name} has {head.gpus} GPUs, which no work uses", at)
        if head.memory_bytes is None:
            yield consider("head", f"{head.name}: its memory is not stated; 16 GiB or more", at)
        elif head.memory_bytes < HEAD_MEMORY_BYTES:
            yield fix(
                "head",
                f"{head.name} has {head.memory_bytes / 2**30:.3g} GiB of memory; take 16 GiB or "
                "more",
                at,
            )
        if head.spot:
            yield fix("head", f"{head.name} is spot: the cluster ends with it; on demand", at)


def spot_findings(hardware: Hardware, line: Line) -> Iterator[Finding]:
    """Who may be taken away: teachers cheaply, students at a price."""
    for node_type in hardware.node_types:
        at = line(node_type.name)
        if node_type.role == "student" and node_type.spot:
            yield consider(
                "spot",
                f"{node_type.name} (student) is spot: each loss of a node restarts the whole group "
                "from its checkpoint",
                at,
            )
        if node_type.role == "teacher" and not node_type.spot and _is_rented(hardware, node_type):
            yield consider(
                "spot",
                f"{node_type.name} (teacher) is on demand: a lost replica is replaced and no row "
                "is lost, so spot serves",
                at,
            )


def _is_rented(hardware: Hardware, node_type: NodeType) -> bool:
    """Whether it could be spot at all; a Kubernetes group without a machine's name may be owned."""
    return hardware.provider in ("aws", "gcp", "azure") or node_type.instance is not None
