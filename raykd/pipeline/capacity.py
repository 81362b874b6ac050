"""What a cluster may grow to: the node types of its autoscaler, as they were given to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raykd.pipeline import cluster, nodes

MONITOR = "monitor.py"
CONFIG_OPTION = "--autoscaling-config="
UNBOUNDED = 2**31
"""Nodes of a type without a limit."""


@dataclass(frozen=True)
class NodeKind:
    """A node type that an autoscaler may start.

    Attributes:
        name: Its name in the autoscaler's configuration.
        resources: What Ray gives out on each node of it; empty where that is not known.
        labels: Its node labels; None where they are not known.
        most: Nodes of it that there may be.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None
    most: int


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may start.

    Attributes:
        kinds: Its node types; none where there is an autoscaler that does not say.
        most_workers: Nodes beside the head that there may be in all; None is no such limit.
    """

    kinds: tuple[NodeKind, ...]
    most_workers: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether every node type says what it has."""
        return bool(self.kinds) and all(kind.resources for kind in self.kinds)


@dataclass(frozen=True)
class Place:
    """Nodes of one shape that there are or may be."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] | None
    count: int
    may_come: bool

    def carries(self, labels: Mapping[str, str]) -> bool:
        """Whether its nodes carry these labels, or may."""
        return self.labels is None or labels.items() <= self.labels.items()

    def holds(self, cpus: float, gpus: float) -> int:
        """How many parts of this size one of its nodes has room for, in use or not."""
        if self.may_come and not self.resources:
            return UNBOUNDED  # who does not say what it has is not held to lack anything
        rooms = [
            int(self.resources.get(name, 0) / each + 1e-6)
            for name, each in (("CPU", cpus), ("GPU", gpus))
            if each
        ]
        return min(rooms, default=1)


def growth() -> Growth | None:
    """What the connected cluster's autoscaler may start; None where it has none.

    Whoever manages the cluster may have told Ray; else the head's autoscaler process was started
    with a configuration. One that runs elsewhere (KubeRay's) is only known to be there.
    """
    return _told_to_ray() or _of_the_head()


def _told_to_ray() -> Growth | None:
    import ray

    told = ray._private.state.state.get_cluster_config()
    kinds = tuple(
        NodeKind(
            group.name,
            dict(group.resources),
            None,
            UNBOUNDED if group.max_count < 0 else group.max_count,
        )
        for group in (told.node_group_configs if told else ())
        if group.max_count < 0 or group.max_count > group.min_count
    )
    return Growth(kinds) if kinds else None


def _of_the_head() -> Growth | None:
    found = nodes.on_the_head(autoscaler_here, cluster.gcs_address())
    if found is None or found == "none":
        return None
    if found == "elsewhere":
        # Someone has to report as an autoscaler, or there is none.
        reports = cluster.status().autoscaling_state.autoscaler_state_version
        return Growth(()) if reports else None
    return from_config(found)


def from_config(tree: Mapping[str, Any]) -> Growth:
    """The worker types of an autoscaler's configuration; see `autoscaler_here`."""
    kinds = tuple(
        NodeKind(
            name,
            {key: float(value) for key, value in (kind.get("resources") or {}).items()},
            dict(kind.get("labels") or {}),
            int(kind.get("max_workers") or 0),
        )
        for name, kind in tree["available_node_types"].items()
        if name != tree.get("head_node_type")
    )
    most = tree.get("max_workers")
    return Growth(kinds, None if most is None else int(most))


def autoscaler_here(gcs_address: str) -> Mapping[str, Any] | str:
    """On the head: the parts of the autoscaler's configuration that say what it may start.

    Returns:
        The parts, without what else lies in such a file; `none` where nothing scales, `elsewhere`
        where its file cannot be read, or Ray was started without its own monitor, which another
        one may then replace.
    """
    commands = _monitors(gcs_address.rsplit(":", 1)[-1])
    if not commands:
        return "elsewhere"
    files = [
        part.removeprefix(CONFIG_OPTION)
        for command in commands
        for part in command
        if part.startswith(CONFIG_OPTION)
    ]
    if not files or not files[0]:
        return "none"
    try:
        tree = yaml.safe_load(Path(files[0]).expanduser().read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return "elsewhere"  # it is there, and does not say
    types = tree.get("available_node_types") or {}
    return {
        "head_node_type": tree.get("head_node_type"),
        "max_workers": tree.get("max_workers"),
        "available_node_types": {
            name: {key: kind.get(key) for key in ("resources", "labels", "max_workers")}
            for name, kind in types.items()
        },
    }


def _monitors(gcs_port: str) -> list[list[str]]:
    """Command lines of the monitors of the Ray whose GCS listens there."""
    import psutil

    commands = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [
        command
        for command in commands
        if any(part.endswith(MONITOR) and "autoscaler" in part for part in command)
        and any(
            part.startswith("--gcs-address=") and part.endswith(f":{gcs_port}") for part in command
        )
    ]


def places(grows: Growth | None) -> list[Place]:
    """Nodes that there are, and those of each type that may be; a type's own nodes count once."""
    kinds = grows.kinds if grows else ()
    names = {kind.name for kind in kinds}
    types = cluster.node_types() if names else {}
    there = [
        Place(
            node.get("NodeManagerAddress", "node"),
            node["Resources"],
            node.get("Labels", {}),
            1,
            may_come=False,
        )
        for node in nodes.alive()
        if types.get(node.get("NodeID", "")) not in names
    ]
    seen = {
        types[node["NodeID"]]: node
        for node in nodes.alive()
        if types.get(node.get("NodeID", "")) in names
    }
    return there + [_place_of(kind, seen.get(kind.name)) for kind in kinds]


def _place_of(kind: NodeKind, node: dict[str, Any] | None) -> Place:
    """A type, with what a running node of it shows beside its configuration."""
    resources, labels = kind.resources, kind.labels
    if node is not None:
        resources = resources or node["Resources"]
        labels = {**(labels or {}), **node.get("Labels", {})}
    return Place(kind.name, resources, labels, kind.most, may_come=True)


def most(grows: Growth | None, found: list[Place], name: str) -> float:
    """The most of a resource that the cluster may have."""
    there = sum(p.resources.get(name, 0.0) for p in found if not p.may_come)
    coming = [
        (p.resources.get(name, 0.0) if p.resources else float(UNBOUNDED), p.count)
        for p in found
        if p.may_come
    ]
    return there + _best(coming, grows)


def room(
    grows: Growth | None, found: list[Place], cpus: float, gpus: float, labels: Mapping[str, str]
) -> float:
    """How many parts of this size may be placed, each whole on one node; others leave it all."""
    fitting = [place for place in found if place.carries(labels)]
    there = sum(p.holds(cpus, gpus) for p in fitting if not p.may_come)
    return there + _best([(p.holds(cpus, gpus), p.count) for p in fitting if p.may_come], grows)


def _best(kinds: list[tuple[float, int]], grows: Growth | None) -> float:
    """The most that nodes can add up to, within the limit of all nodes together."""
    left = UNBOUNDED if grows is None or grows.most_workers is None else grows.most_workers
    total = 0.0
    for each, count in sorted(kinds, reverse=True):
        taken = min(count, left)
        total, left = total + each * taken, left - taken
    return total
