"""The nodes of a SkyPilot task: `num_nodes` machines, all alike, with roles by rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document, mapping
from raykd.clusters.hardware import ROLE_LABEL, NodeType, Role
from raykd.clusters.machines import Machine, machine
from raykd.errors import JobError

STUDENT_NODES = "NUM_STUDENT_NODES"
GPU_NAMES = {"A100": "A100-40G", "A100-80GB": "A100-80G"}
"""SkyPilot's names of GPUs that Ray has others for."""


def skypilot_node_types(document: Document, path: Path) -> tuple[NodeType, ...]:
    """Read the nodes of a task.

    SkyPilot makes all nodes alike and knows no labels. Where `envs` has NUM_STUDENT_NODES, as
    cluster/skypilot.yaml does, the first so many are students (the head is one of them) and the
    others teachers; else all are of one type without a role.

    Raises:
        JobError: How many CPUs a node has is not to be known, or more students than nodes.
    """
    resources = mapping(document.tree.get("resources"))
    instance = resources.get("instance_type")
    known = machine(None if instance is None else str(instance))
    accelerator, gpus = _accelerators(document, path, resources.get("accelerators"), known)
    cpus = _at_least(document, path, "cpus", resources)
    if cpus is None and known is not None:
        cpus = known.cpus
    if cpus is None:
        raise JobError(
            f"{path}:{document.line('resources')}: resources.cpus: missing; how many CPUs a node "
            "has is needed: cpus: 96+"
        )
    memory_gib = _at_least(document, path, "memory", resources)
    memory_bytes = known.memory_bytes if known else None
    if memory_gib:
        memory_bytes = round(memory_gib * 2**30)
    return tuple(
        NodeType(
            name=role or "node",
            role=role,
            labels={ROLE_LABEL: role} if role else {},
            min_nodes=count,
            max_nodes=count,
            cpus=float(cpus),
            gpus=gpus,
            memory_bytes=memory_bytes,
            accelerator=accelerator,
            instance=None if instance is None else str(instance),
            spot=bool(resources.get("use_spot", False)),
        )
        for role, count in _roles(document, path)
    )


def _roles(document: Document, path: Path) -> list[tuple[Role | None, int]]:
    count = int(document.tree.get("num_nodes", 1))
    given = mapping(document.tree.get("envs")).get(STUDENT_NODES)
    if given is None:
        return [(None, count)]
    place = f"{path}:{document.line('envs', STUDENT_NODES)}: envs.{STUDENT_NODES}"
    if not str(given).isdigit() or not 1 <= int(given) <= count:
        raise JobError(f"{place}: {given!r}; a whole number from 1 to num_nodes ({count})")
    roles: list[tuple[Role | None, int]] = [("student", int(given))]
    return roles + ([("teacher", count - int(given))] if count > int(given) else [])


def _at_least(
    document: Document, path: Path, key: str, resources: Mapping[str, Any]
) -> float | None:
    """`96`, `96+` or (memory) `4x` CPUs."""
    value = resources.get(key)
    if value is None:
        return None
    try:
        return float(str(value).rstrip("+"))
    except ValueError:
        raise JobError(
            f"{path}:{document.line('resources', key)}: resources.{key}: {value!r}; give a number, "
            "or the least: 96+"
        ) from None


def _accelerators(
    document: Document, path: Path, value: Any, known: Machine | None
) -> tuple[str | None, int]:
    if value is None:
        return (known.accelerator, known.gpus) if known else (None, 0)
    if isinstance(value, Mapping) and len(value) == 1:
        name, count = next(iter(value.items()))
    elif isinstance(value, str):
        name, _, count = value.partition(":")
    else:
        raise JobError(
            f"{path}:{document.line('resources', 'accelerators')}: resources.accelerators: "
            f"{value!r}; a plan needs one kind: H100:8"
        )
    return GPU_NAMES.get(str(name), str(name)), int(count or 1)
