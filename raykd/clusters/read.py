"""From a cluster file to the hardware that it describes."""

from __future__ import annotations

from pathlib import Path

from raykd.clusters.documents import Document, mapping
from raykd.clusters.hardware import Hardware, NodeType, Provider
from raykd.clusters.kind import ALLOWED, Kind, read_kind
from raykd.clusters.kuberay import cluster_specs, kuberay_node_types
from raykd.clusters.launcher import launcher_node_types, provider_of, ray_version_of
from raykd.clusters.prices import Price, parse_prices, prices_of, read_prices
from raykd.clusters.skypilot import skypilot_node_types
from raykd.errors import JobError


def read_hardware(path: Path, prices_file: Path | None = None) -> Hardware:
    """Read a cluster file: Ray's cluster launcher, KubeRay manifests or a SkyPilot task.

    Args:
        path: The file. CPUs, GPUs and memory are those that it states, else the machine's own.
        prices_file: Prices that go before those of the file, and before raykd's examples.

    Raises:
        JobError: It is no cluster file, or lacks what a plan needs; names file and line.
    """
    kind, documents = read_kind(path)
    return hardware_of(kind, documents, path, prices_file)


def hardware_of(
    kind: Kind, documents: list[Document], path: Path, prices_file: Path | None = None
) -> Hardware:
    """The hardware of a file that is read already.

    Raises:
        JobError: As `read_hardware`.
    """
    try:
        node_types, provider, version = _described(kind, documents, path)
    except (TypeError, ValueError, AttributeError) as error:
        raise JobError(
            f"{path}: a value is of the wrong kind ({error}); raykd check --cluster {path} names it"
        ) from None
    tables = [read_prices(prices_file)] if prices_file else []
    tables += [_own_prices(kind, documents[0], path), read_prices()]
    return Hardware(
        provider=provider,
        node_types=node_types,
        source=path,
        ray_version=version,
        prices=prices_of(node_types, *tables),
    )


def _described(
    kind: Kind, documents: list[Document], path: Path
) -> tuple[tuple[NodeType, ...], Provider, str | None]:
    first = documents[0]
    if kind == "launcher":
        types = launcher_node_types(first, path)
        return types, provider_of(first, path), ray_version_of(first)
    if kind == "skypilot":
        return skypilot_node_types(first, path), "skypilot", None
    if kind == "kubernetes":
        kinds = ", ".join(sorted({str(document.tree["kind"]) for document in documents}))
        raise JobError(f"{path}: Kubernetes manifests without a Ray cluster ({kinds}); {ALLOWED}")
    types = kuberay_node_types(documents, path)
    document, at = next(cluster_specs(documents))
    spec = document.tree
    for key in at:
        spec = spec[key]
    version = spec.get("rayVersion")
    return types, "kuberay", None if version is None else str(version)


def _own_prices(kind: Kind, document: Document, path: Path) -> dict[str, Price]:
    """Prices under `metadata.raykd.prices` of a launcher's file."""
    if kind != "launcher" or "prices" not in mapping(
        mapping(document.tree.get("metadata")).get("raykd")
    ):
        return {}
    return parse_prices(document, ("metadata", "raykd", "prices"), path)
