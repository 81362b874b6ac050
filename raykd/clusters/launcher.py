"""Node types of a file for Ray's cluster launcher (`ray up`)."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from raykd.clusters.documents import Document, listing, mapping
from raykd.clusters.hardware import ROLE_LABEL, NodeType, Role
from raykd.clusters.machines import machine
from raykd.clusters.on_prem import on_prem_node_types
from raykd.errors import JobError

LauncherProvider = Literal["aws", "gcp", "azure", "on-prem"]
PROVIDERS: dict[str, LauncherProvider] = {
    "aws": "aws",
    "gcp": "gcp",
    "azure": "azure",
    "local": "on-prem",
}
"""Ray's `provider.type`, and what raykd calls it."""

DEFAULT_MAX_WORKERS = 2
"""Ray's own, where a file for a cloud gives none."""
ACCELERATOR_LABEL = "ray.io/accelerator-type"
ACCELERATOR_RESOURCE = "accelerator_type:"


def provider_of(document: Document, path: Path) -> LauncherProvider:
    """Whose machines the file asks for.

    Raises:
        JobError: It does not say, or names one that raykd does not know.
    """
    kind = mapping(document.tree.get("provider")).get("type")
    if not isinstance(kind, str) or kind not in PROVIDERS:
        found = "missing" if kind is None else f"found {kind!r}"
        raise JobError(
            f"{path}:{document.line('provider', 'type')}: provider.type: {found}; raykd knows "
            f"{', '.join(PROVIDERS)}"
        )
    return PROVIDERS[kind]


def launcher_node_types(document: Document, path: Path) -> tuple[NodeType, ...]:
    """Read the node types.

    Raises:
        JobError: There are none, or how many CPUs one has is not to be known.
    """
    if provider_of(document, path) == "on-prem":
        return on_prem_node_types(document, path)
    types = mapping(document.tree.get("available_node_types"))
    if not types:
        raise JobError(
            f"{path}:{document.line('available_node_types')}: available_node_types: none; name at "
            "least the head's"
        )
    return tuple(_node_type(document, path, name) for name in types)


def _node_type(document: Document, path: Path, name: str) -> NodeType:
    row = mapping(document.tree["available_node_types"][name])
    is_head = name == document.tree.get("head_node_type")
    resources, config = mapping(row.get("resources")), mapping(row.get("node_config"))
    labels = {str(key): str(value) for key, value in mapping(row.get("labels")).items()}
    instance = instance_of(config)
    known = machine(instance)
    cpus = resources.get("CPU", started_with(document, "num-cpus", head=is_head))
    gpus = resources.get("GPU", started_with(document, "num-gpus", head=is_head))
    if cpus is None and known is None:
        raise JobError(
            f"{path}:{document.line('available_node_types', name)}: {name}: how many CPUs "
            f"{instance or 'it'} has is not known; say so: resources: {{CPU: 8}}"
        )
    least, most = _span(document, row, is_head)
    memory = resources.get("memory")
    return NodeType(
        name=name,
        role=role_of(labels, is_head),
        labels=labels,
        min_nodes=least,
        max_nodes=most,
        cpus=float(cpus if cpus is not None else known.cpus if known else 0),
        gpus=int(gpus if gpus is not None else known.gpus if known else _guest_gpus(config)),
        memory_bytes=int(memory) if memory is not None else known.memory_bytes if known else None,
        accelerator=accelerator_of(resources, labels) or (known.accelerator if known else None),
        instance=instance,
        spot=is_spot(config),
    )


def _span(document: Document, row: Mapping[str, Any], is_head: bool) -> tuple[int, int]:
    """Fewest and most nodes; the cluster's own limit holds for every type."""
    limit = document.tree.get("max_workers", DEFAULT_MAX_WORKERS)
    least, most = row.get("min_workers", 0), row.get("max_workers", 0 if is_head else limit)
    if is_head:
        return 1 + int(least), 1 + min(int(most), int(limit))
    return int(least), min(int(most), int(limit))


def role_of(labels: Mapping[str, str], is_head: bool) -> Role | None:
    """What a node type is for; the head is the head also without the label."""
    role = labels.get(ROLE_LABEL)
    if role in typing.get_args(Role):
        return typing.cast(Role, role)
    return "head" if is_head and role is None else None


def instance_of(config: Mapping[str, Any]) -> str | None:
    """The machine that a `node_config` asks for, in any provider's words."""
    name = (
        config.get("InstanceType")
        or config.get("machineType")
        or mapping(config.get("azure_arm_parameters")).get("vmSize")
    )
    return None if name is None else str(name).rpartition("/")[2]


def is_spot(config: Mapping[str, Any]) -> bool:
    """Whether a `node_config` asks for machines that may be taken back."""
    market = mapping(config.get("InstanceMarketOptions")).get("MarketType")
    scheduling = config.get("scheduling")
    rules = scheduling if isinstance(scheduling, list) else [scheduling]
    taken = any(
        mapping(rule).get("preemptible") is True or mapping(rule).get("provisioningModel") == "SPOT"
        for rule in rules
    )
    priority = mapping(config.get("azure_arm_parameters")).get("priority")
    return market == "spot" or taken or str(priority).lower() == "spot"


def accelerator_of(resources: Mapping[str, Any], labels: Mapping[str, str]) -> str | None:
    """The GPU that `resources` or labels name."""
    named = [str(key) for key in resources if str(key).startswith(ACCELERATOR_RESOURCE)]
    if named:
        return named[0].removeprefix(ACCELERATOR_RESOURCE)
    return labels.get(ACCELERATOR_LABEL)


def _guest_gpus(config: Mapping[str, Any]) -> int:
    """GPUs that a Google Cloud file adds to a machine without."""
    rows = config.get("guestAccelerators")
    rows = rows if isinstance(rows, list) else []
    return sum(int(mapping(row).get("acceleratorCount", 0)) for row in rows)


def start_commands(document: Document, *, head: bool) -> list[str]:
    """The lines that start Ray on the head, or on a worker."""
    lines = document.tree.get("head_start_ray_commands" if head else "worker_start_ray_commands")
    return [str(line) for line in lines] if isinstance(lines, list) else []


def started_with(document: Document, option: str, *, head: bool) -> str | None:
    """The value of an option of `ray start`; None where it is not given as a plain word."""
    for line in start_commands(document, head=head):
        if "ray start" not in line:
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        for word, following in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            if name == f"--{option}":
                given = value if equals else following
                if re.fullmatch(r"[^$`]+", given):
                    return given.rstrip(";")
    return None


def ray_version_of(document: Document) -> str | None:
    """The Ray that the image or the set-up pins."""
    from raykd.clusters.images import ray_version_in, ray_version_installed_by

    docker = mapping(document.tree.get("docker"))
    for key in ("image", "head_image", "worker_image"):
        version = ray_version_in(str(docker.get(key, "")))
        if version:
            return version
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        for line in listing(document.tree.get(key)):
            version = ray_version_installed_by(str(line))
            if version:
                return version
    return None
