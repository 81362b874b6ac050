"""Node types of machines of one's own (`provider.type: local`), which Ray's file cannot describe.

Ray's launcher takes addresses only. What the machines are stands under
`metadata: {raykd: {node_types: ...}}`, which Ray leaves alone:

    metadata:
      raykd:
        node_types:
          head: {nodes: 1, cpus: 0, memory_gib: 64}
          student: {nodes: 2, cpus: 96, gpus: 8, accelerator: H100, memory_gib: 2048}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from raykd.clusters.documents import Document, KeyPath, mapping
from raykd.clusters.hardware import ROLE_LABEL, NodeType, Role
from raykd.errors import JobError

AT: KeyPath = ("metadata", "raykd", "node_types")
KEYS = ("nodes", "role", "labels", "cpus", "gpus", "accelerator", "memory_gib")


def described(document: Document) -> Mapping[str, Any] | None:
    """The node types under `metadata.raykd`; None where there are none."""
    tree: Any = document.tree
    for key in AT:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) and tree else None


def on_prem_node_types(document: Document, path: Path) -> tuple[NodeType, ...]:
    """Read what `metadata.raykd.node_types` says.

    Raises:
        JobError: It is missing, or a value is wrong.
    """
    rows = described(document)
    if rows is None:
        raise JobError(
            f"{path}:{document.line(*AT)}: {'.'.join(map(str, AT))}: missing; a file for machines "
            "of your own holds only their addresses: say there what they are, such as "
            "student: {nodes: 2, cpus: 96, gpus: 8, accelerator: H100, memory_gib: 2048}"
        )
    return tuple(_node_type(document, path, str(name), row) for name, row in rows.items())


def _node_type(document: Document, path: Path, name: str, row: Any) -> NodeType:
    if not isinstance(row, Mapping):
        raise JobError(f"{path}:{document.line(*AT, name)}: {name}: give {', '.join(KEYS)}")
    for key in row:
        if key not in KEYS:
            raise JobError(
                f"{path}:{document.line(*AT, name, key)}: {name}.{key}: unknown key; known here: "
                f"{', '.join(KEYS)}"
            )
    role = _role(document, path, name, row)
    labels: dict[str, str] = {ROLE_LABEL: role} if role else {}
    labels |= {str(key): str(value) for key, value in mapping(row.get("labels")).items()}
    nodes = int(_number(document, path, name, row, "nodes", 1))
    memory_gib = _number(document, path, name, row, "memory_gib", math.nan)
    return NodeType(
        name=name,
        role=role,
        labels=labels,
        min_nodes=nodes,
        max_nodes=nodes,
        cpus=_number(document, path, name, row, "cpus", None),
        gpus=int(_number(document, path, name, row, "gpus", 0)),
        memory_bytes=None if math.isnan(memory_gib) else round(memory_gib * 2**30),
        accelerator=row.get("accelerator"),
    )


def _role(document: Document, path: Path, name: str, row: Mapping[str, Any]) -> Role | None:
    """The one given, or the name where it is a role's."""
    role = row.get("role", name if name in get_args(Role) else None)
    if role is not None and role not in get_args(Role):
        raise JobError(
            f"{path}:{document.line(*AT, name, 'role')}: {name}.role: {role!r}; choose "
            f"{', '.join(get_args(Role))}"
        )
    return cast("Role | None", role)


def _number(
    document: Document,
    path: Path,
    name: str,
    row: Mapping[str, Any],
    key: str,
    default: float | None,
) -> float:
    value = row.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        found = "missing" if value is None else f"found {value!r}"
        raise JobError(
            f"{path}:{document.line(*AT, name, key)}: {name}.{key}: a number of at least 0; {found}"
        )
    return float(value)
