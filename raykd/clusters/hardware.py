"""Hardware as a cluster file describes it: node types, each with a role. No cloud is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROLE_LABEL = "raykd-role"
"""The node label that says what a node is for; a job's `labels` name it."""
Role = Literal["head", "student", "teacher", "data"]
Provider = Literal["aws", "gcp", "azure", "on-prem", "kuberay", "slurm", "skypilot", "hand"]


@dataclass(frozen=True)
class NodeType:
    """One kind of node of a cluster.

    Attributes:
        name: Its name in the cluster file.
        role: What it is for, from its `raykd-role` label; None where it has none.
        labels: All its node labels.
        min_nodes: Fewest that run.
        max_nodes: Most that may run.
        cpus: CPUs that Ray may give out on each; 0 on a head that does no work.
        gpus: GPUs of each.
        memory_bytes: Memory of each; None where neither the file nor the table tells.
        accelerator: The GPU's name as Ray has it (`H100`); None without GPUs or where unknown.
        instance: The provider's name of the machine (`p5.48xlarge`); None where it has none.
        spot: Whether the provider may take it back.
    """

    name: str
    role: Role | None
    labels: Mapping[str, str]
    min_nodes: int
    max_nodes: int
    cpus: float
    gpus: int
    memory_bytes: int | None = None
    accelerator: str | None = None
    instance: str | None = None
    spot: bool = False


@dataclass(frozen=True)
class Hardware:
    """What a cluster may grow to.

    Attributes:
        provider: Who runs the machines.
        node_types: The head's type among them.
        source: The file it was read from; None for hardware made up in code.
        ray_version: The Ray that the file pins; None where it pins none.
        prices: US dollars an hour by node type name, `(on demand, spot)`; None where unknown.
    """

    provider: Provider
    node_types: tuple[NodeType, ...]
    source: Path | None = None
    ray_version: str | None = None
    prices: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def of_role(self, role: Role) -> tuple[NodeType, ...]:
        """The node types of a role, in the file's order."""
        return tuple(each for each in self.node_types if each.role == role)
