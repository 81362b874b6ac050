"""What KubeRay manifests should be beyond their schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raykd.clusters.documents import Document, KeyPath, listing, mapping
from raykd.clusters.finding import Finding, consider, fix
from raykd.clusters.hardware import ROLE_LABEL
from raykd.clusters.kuberay import Group, cluster_specs, groups_of
from raykd.clusters.software import image_findings, version_findings

OPEN_TYPES = ("LoadBalancer", "NodePort")
SHARED_VOLUMES = ("persistentVolumeClaim", "nfs", "csi", "azureFile", "cephfs", "ephemeral")


def cluster_findings(documents: list[Document]) -> Iterator[Finding]:
    """Counts, scaling, labels and the one-shot job's end."""
    for document, at in cluster_specs(documents):
        spec = _value(document, at)
        for group in groups_of(document, at):
            yield from _labels(group)
            if not group.is_head:
                yield from _counts(group)
        options = mapping(spec.get("autoscalerOptions"))
        if spec.get("enableInTreeAutoscaling") is True and options.get("version") != "v2":
            yield consider(
                "scaling",
                "autoscalerOptions.version is not v2; only v2 brings nodes for label demands",
                document.line(*at, "autoscalerOptions", "version"),
            )
    for document in documents:
        spec = mapping(document.tree.get("spec"))
        own = document.tree.get("kind") == "RayJob" and "clusterSelector" not in spec
        if own and spec.get("shutdownAfterJobFinishes") is not True:
            yield consider(
                "idle",
                "shutdownAfterJobFinishes is not true: the cluster stays, and costs, after the job",
                document.line("spec"),
            )


def _value(document: Document, at: KeyPath) -> Mapping[str, Any]:
    tree: Any = document.tree
    for key in at:
        tree = mapping(tree).get(key)
    return mapping(tree)


def _labels(group: Group) -> Iterator[Finding]:
    started = str(mapping(group.tree.get("rayStartParams")).get("labels", ""))
    if started and ROLE_LABEL not in mapping(group.tree.get("labels")):
        yield fix(
            "roles",
            f"{group.name}: the autoscaler ignores rayStartParams.labels; write them as `labels` "
            "of the group",
            group.line("rayStartParams", "labels"),
        )


def _counts(group: Group) -> Iterator[Finding]:
    tree = group.tree
    values = [tree.get(key) for key in ("minReplicas", "maxReplicas")]
    low, high = (each if isinstance(each, int) else None for each in values)
    count = tree.get("replicas")
    if low is not None and high is not None:
        if low > high:
            yield fix(
                "scaling",
                f"{group.name}: minReplicas {low} is more than maxReplicas {high}",
                group.line("minReplicas"),
            )
        elif isinstance(count, int) and not low <= count <= high:
            yield fix(
                "scaling",
                f"{group.name}: replicas {count} is not within {low} and {high}",
                group.line("replicas"),
            )
        if low < high and group.spec.get("enableInTreeAutoscaling") is not True:
            yield fix(
                "scaling",
                f"{group.name}: nothing brings more than replicas: set "
                "enableInTreeAutoscaling: true, or minReplicas as maxReplicas",
                group.line("maxReplicas"),
            )


def software_findings(documents: list[Document]) -> Iterator[Finding]:
    """Images pinned, and one Ray everywhere."""
    for document, at in cluster_specs(documents):
        spec = _value(document, at)
        found = spec.get("rayVersion")
        if found is None:
            line = document.line(*at)
            yield fix("image", "rayVersion is missing; KubeRay starts Ray by it", line)
        else:
            line = document.line(*at, "rayVersion")
            yield from version_findings(str(found), "rayVersion", line)
    for document in documents:
        for place, value in _named(document.tree, "image", ()):
            if isinstance(value, str):
                yield from image_findings(value, document.line(*place))


def _named(tree: Any, name: str, at: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Every value under a key of this name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield (*at, key), value
            yield from _named(value, name, (*at, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _named(value, name, (*at, i))


def auth_findings(documents: list[Document]) -> Iterator[Finding]:
    """Is token authentication on?"""
    for document, at in cluster_specs(documents):
        options = _value(document, at).get("authOptions")
        if mapping(options).get("mode") != "token":
            yield fix(
                "auth",
                "authOptions.mode is not token; whoever reaches the head's ports can run code: "
                "authOptions: {mode: token}",
                document.line(*at, "authOptions", "mode"),
            )


def port_findings(documents: list[Document]) -> Iterator[Finding]:
    """Services and pods that are reached from outside the Kubernetes cluster."""
    for document in documents:
        if document.tree.get("kind") == "Ingress":
            yield consider("ports", "an Ingress: see that it asks for a login", document.first_line)
        for name in ("type", "serviceType"):
            for at, value in _named(document.tree, name, ()):
                if value in OPEN_TYPES and _is_service(document, at):
                    yield fix(
                        "ports",
                        f"{value}: the head can be reached from outside; take ClusterIP and "
                        "kubectl port-forward",
                        document.line(*at),
                    )
        for name, harm in (("hostNetwork", True), ("hostPort", None)):
            for at, value in _named(document.tree, name, ()):
                if value is harm or (harm is None and isinstance(value, int)):
                    yield fix(
                        "ports",
                        f"{name}: Ray's ports open on the machine itself; leave it out",
                        document.line(*at),
                    )


def _is_service(document: Document, at: KeyPath) -> bool:
    around = at[-2] if len(at) > 1 else None
    is_its_own = document.tree.get("kind") == "Service" and at == ("spec", "type")
    within = around == "spec" and any("ervice" in str(part) for part in at[:-2])
    return at[-1] == "serviceType" or is_its_own or within


def idle_findings(documents: list[Document]) -> Iterator[Finding]:
    """Groups that may come and go: when they go."""
    for document, at in cluster_specs(documents):
        spec = _value(document, at)
        whole = "idleTimeoutSeconds" in mapping(spec.get("autoscalerOptions"))
        if spec.get("enableInTreeAutoscaling") is not True or whole:
            continue
        for group in groups_of(document, at):
            tree = group.tree
            elastic = not group.is_head and tree.get("minReplicas") != tree.get("maxReplicas")
            if elastic and "idleTimeoutSeconds" not in tree:
                yield consider(
                    "idle",
                    f"{group.name}: no idleTimeoutSeconds; the default is 60 seconds",
                    group.line(),
                )


def storage_findings(documents: list[Document]) -> Iterator[Finding]:
    """Is shared storage mounted in every group?"""
    for document, at in cluster_specs(documents):
        for group in groups_of(document, at):
            rows = [mapping(row) for row in listing(group.pod.get("volumes"))]
            shared = {
                str(row.get("name")) for row in rows if not row.keys().isdisjoint(SHARED_VOLUMES)
            }
            mounts = listing(group.container.get("volumeMounts"))
            mounted = {str(mapping(row).get("name")) for row in mounts}
            if not shared & mounted:
                yield consider(
                    "storage",
                    f"{group.name}: mounts no shared volume; a run's directory (storage_path) and "
                    "models must be on storage that every pod sees at the same path",
                    group.line("template"),
                )
