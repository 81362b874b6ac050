"""Node types of KubeRay manifests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document, KeyPath, mapping
from raykd.clusters.hardware import NodeType
from raykd.clusters.launcher import ACCELERATOR_LABEL, role_of
from raykd.clusters.machines import machine
from raykd.clusters.quantity import quantity
from raykd.errors import JobError

SPEC_KEY = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Where in `spec` each kind describes its cluster."""

INSTANCE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
PRODUCT_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
PRODUCTS = {
    "a100-40gb": "A100-40G",
    "a100-sxm4-40gb": "A100-40G",
    "a100-pcie-40gb": "A100-40G",
    "tesla-a100": "A100-40G",
    "a100-80gb": "A100-80G",
    "a100-sxm4-80gb": "A100-80G",
    "b200": "B200",
    "h200": "H200",
    "h100": "H100",
    "a10g": "A10G",
    "l40s": "L40S",
    "l4": "L4",
    "t4": "T4",
}
"""Part of the name that Kubernetes has for a GPU, and Ray's; the longest that fits decides."""


@dataclass(frozen=True)
class Group:
    """A group of pods of one Ray cluster: the head, or workers of one kind.

    Attributes:
        document: The manifest.
        at: Where the group stands in it.
        is_head: Whether it is the head.
        spec: The cluster's specification around it.
    """

    document: Document
    at: KeyPath
    is_head: bool
    spec: Mapping[str, Any]

    @property
    def tree(self) -> Mapping[str, Any]:
        """The group's own values."""
        return mapping(_at(self.document.tree, self.at))

    @property
    def name(self) -> str:
        """Its name; the head's is `headgroup`, as the autoscaler calls it."""
        return "headgroup" if self.is_head else str(self.tree.get("groupName", self.at[-1]))

    @property
    def pod(self) -> Mapping[str, Any]:
        """The pod's specification."""
        return mapping(mapping(self.tree.get("template")).get("spec"))

    @property
    def container(self) -> Mapping[str, Any]:
        """The container that runs Ray: the first, by KubeRay's rule."""
        containers = self.pod.get("containers")
        return mapping(containers[0]) if isinstance(containers, list) and containers else {}

    def line(self, *path: str | int) -> int:
        """The line of something in the group."""
        return self.document.line(*self.at, *path)


def _at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def cluster_specs(documents: list[Document]) -> Iterator[tuple[Document, KeyPath]]:
    """Every Ray cluster that the manifests describe: its document, and where it stands in it."""
    for document in documents:
        kind = document.tree.get("kind")
        if str(document.tree.get("apiVersion")).startswith("ray.io/") and kind in SPEC_KEY:
            at = ("spec", *SPEC_KEY[kind])
            if isinstance(_at(document.tree, at), Mapping):
                yield document, at


def groups_of(document: Document, at: KeyPath) -> list[Group]:
    """The groups of one cluster: the head's first."""
    spec = mapping(_at(document.tree, at))
    workers = spec.get("workerGroupSpecs")
    count = len(workers) if isinstance(workers, list) else 0
    return [
        Group(document, (*at, "headGroupSpec"), True, spec),
        *(Group(document, (*at, "workerGroupSpecs", i), False, spec) for i in range(count)),
    ]


def kuberay_node_types(documents: list[Document], path: Path) -> tuple[NodeType, ...]:
    """Read the groups of the one Ray cluster in these manifests.

    Raises:
        JobError: There is none or more than one, or how many CPUs a pod has is not to be known.
    """
    specs = list(cluster_specs(documents))
    if len(specs) != 1:
        raise JobError(
            f"{path}: {len(specs)} Ray clusters in it; one is what a job runs on"
            + ("" if specs else " (RayCluster, RayJob with rayClusterSpec, or RayService)")
        )
    return tuple(_node_type(group, path) for group in groups_of(*specs[0]))


def _node_type(group: Group, path: Path) -> NodeType:
    labels = {str(key): str(value) for key, value in mapping(group.tree.get("labels")).items()}
    selector = mapping(group.pod.get("nodeSelector"))
    instance = next((str(selector[key]) for key in INSTANCE_LABELS if key in selector), None)
    known = machine(instance)
    cpus = _resource(group, path, "CPU", "num-cpus", "cpu")
    if cpus is None:
        raise JobError(
            f"{path}:{group.line('template')}: {group.name}: how many CPUs it has is not said; "
            "give the first container resources.limits.cpu"
        )
    memory = _resource(group, path, "memory", "memory", "memory")
    least, most = span(group)
    gpus = int(_resource(group, path, "GPU", "num-gpus", "nvidia.com/gpu") or 0)
    accelerator = accelerator_of(group) or (known.accelerator if known else None)
    return NodeType(
        name=group.name,
        role=role_of(labels, group.is_head),
        labels=labels,
        min_nodes=least,
        max_nodes=most,
        cpus=float(math.ceil(cpus)),
        gpus=gpus,
        memory_bytes=None if memory is None else int(memory),
        accelerator=accelerator if gpus else None,
        instance=instance,
        spot=is_spot(group),
    )


def span(group: Group) -> tuple[int, int]:
    """Fewest and most pods; without KubeRay's autoscaler there are `replicas` of them."""
    if group.is_head:
        return 1, 1
    hosts, tree = _whole(group.tree.get("numOfHosts"), 1), group.tree
    if group.spec.get("enableInTreeAutoscaling") is True:
        least, most = _whole(tree.get("minReplicas"), 0), _whole(tree.get("maxReplicas"), 0)
        return least * hosts, most * hosts
    count = _whole(tree.get("replicas"), _whole(tree.get("minReplicas"), 0)) * hosts
    return count, count


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def memory_of(group: Group, path: Path) -> float | None:
    """Bytes of memory of the group's Ray container."""
    return _resource(group, path, "memory", "memory", "memory")


def _resource(group: Group, path: Path, top: str, option: str, name: str) -> float | None:
    """A resource as Ray's autoscaler finds it.

    Source: ray/autoscaler/_private/kuberay/autoscaling_config.py: the group's `resources`, then
    `rayStartParams`, then the first container's limits, then (CPUs only) its requests.
    """
    resources = mapping(group.container.get("resources"))
    places: list[tuple[Mapping[str, Any], str, KeyPath]] = [
        (mapping(group.tree.get("resources")), top, ("resources",)),
        (mapping(group.tree.get("rayStartParams")), option, ("rayStartParams",)),
        (mapping(resources.get("limits")), name, ("template",)),
        (mapping(resources.get("requests")), name, ("template",)),
    ]
    for values, key, at in places:
        if key in values:
            try:
                return quantity(values[key])
            except ValueError as error:
                raise JobError(
                    f"{path}:{group.line(*at, key)}: {group.name}.{key}: {error}"
                ) from None
    return None


def accelerator_of(group: Group) -> str | None:
    """The GPU that labels or the node selector name, as Ray has it."""
    named = mapping(group.tree.get("labels")).get(ACCELERATOR_LABEL)
    if named is not None:
        return str(named)
    selector = mapping(group.pod.get("nodeSelector"))
    for key in PRODUCT_LABELS:
        product = str(selector.get(key, "")).lower()
        fits = [part for part in PRODUCTS if part in product]
        if fits:
            return PRODUCTS[max(fits, key=len)]
    return None


def is_spot(group: Group) -> bool:
    """Whether its pods may only go, or may also go, to machines that can be taken back."""
    selector = mapping(group.pod.get("nodeSelector"))
    if any(str(selector.get(key, "")) == value for key, value in SPOT_LABELS.items()):
        return True
    tolerations = group.pod.get("tolerations")
    rows = tolerations if isinstance(tolerations, list) else []
    return any(mapping(row).get("key") in SPOT_LABELS for row in rows)
