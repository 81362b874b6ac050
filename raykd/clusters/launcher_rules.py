"""What a launcher file should be beyond Ray's schema: machines, images, zones, storage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document, listing, mapping
from raykd.clusters.finding import Finding, consider, fix
from raykd.clusters.images import installs_any_ray, ray_version_installed_by
from raykd.clusters.launcher import LauncherProvider
from raykd.clusters.on_prem import described, on_prem_node_types
from raykd.clusters.software import image_findings, version_findings
from raykd.errors import JobError

CONFIG_KEY = {"aws": "InstanceType", "gcp": "machineType", "azure": "azure_arm_parameters"}
"""The key of `node_config` that names the machine, by provider; no other provider has it."""
COMMAND_KEYS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
)
MOUNTED = re.compile(r"\bmount\b|/etc/fstab|gcsfuse|blobfuse|mount-s3|s3fs|amazon-efs|lustre|\bnfs")


def provider_findings(
    document: Document, provider: LauncherProvider, path: Path
) -> Iterator[Finding]:
    """Is each `node_config` the provider's own? Are there as many machines as are described?"""
    if provider == "on-prem":
        yield from _machines_of_ones_own(document, path)
        return
    for name, row in mapping(document.tree.get("available_node_types")).items():
        config = mapping(mapping(row).get("node_config"))
        line = document.line("available_node_types", name, "node_config")
        others = [each for each, key in CONFIG_KEY.items() if each != provider and key in config]
        if others:
            yield fix(
                "provider",
                f"{name}: node_config has {CONFIG_KEY[others[0]]}, which is for {others[0]}; "
                f"provider.type says {provider}",
                line,
            )
        elif CONFIG_KEY[provider] not in config:
            yield fix("provider", f"{name}: node_config lacks {CONFIG_KEY[provider]}", line)


def _machines_of_ones_own(document: Document, path: Path) -> Iterator[Finding]:
    addresses = mapping(document.tree.get("provider")).get("worker_ips")
    if not isinstance(addresses, list) or described(document) is None:
        return
    try:
        workers = sum(
            each.max_nodes for each in on_prem_node_types(document, path) if each.role != "head"
        )
    except JobError:
        # Named where the node types are looked at.
        return
    if workers != len(addresses):
        yield fix(
            "provider",
            f"worker_ips: {len(addresses)} addresses, and metadata.raykd.node_types describes "
            f"{workers} machines beside the head",
            document.line("provider", "worker_ips"),
        )


def software_findings(document: Document, provider: LauncherProvider) -> Iterator[Finding]:
    """Images pinned, and one Ray everywhere."""
    yield from _images(document)
    yield from _installed(document)
    yield from _machine_images(document, provider)


def _images(document: Document) -> Iterator[Finding]:
    docker = mapping(document.tree.get("docker"))
    for key in ("image", "head_image", "worker_image"):
        if key in docker:
            yield from image_findings(str(docker[key]), document.line("docker", key))
    for name, row in mapping(document.tree.get("available_node_types")).items():
        image = mapping(mapping(row).get("docker")).get("worker_image")
        if image is not None:
            line = document.line("available_node_types", name, "docker", "worker_image")
            yield from image_findings(str(image), line)


def _installed(document: Document) -> Iterator[Finding]:
    """What set-up commands install."""
    said = False
    for key in COMMAND_KEYS:
        commands = document.tree.get(key)
        for i, command in enumerate(commands if isinstance(commands, list) else []):
            line = document.line(key, i)
            found = ray_version_installed_by(str(command))
            if found:
                said = True
                yield from version_findings(found, key, line)
            elif installs_any_ray(str(command)):
                said = True
                here = f"ray=={version('ray')}"
                yield fix("image", f"{key}: installs a Ray without saying which: {here}", line)
    docker = mapping(document.tree.get("docker"))
    if not said and not any(key in docker for key in ("image", "head_image")):
        yield consider(
            "image",
            "neither docker.image nor a set-up command pins Ray: the nodes take what their own "
            "image has, or what Ray's launcher installs by default",
            document.line("docker"),
        )


def _machine_images(document: Document, provider: LauncherProvider) -> Iterator[Finding]:
    """Images of whole machines that may change from one launch to the next; each line once."""
    found = {each.line: each for each in _moving_images(document, provider)}
    yield from found.values()


def _moving_images(document: Document, provider: LauncherProvider) -> Iterator[Finding]:
    for name, row in mapping(document.tree.get("available_node_types")).items():
        config = mapping(mapping(row).get("node_config"))
        at = ("available_node_types", name, "node_config")
        if provider == "aws" and "ImageId" not in config:
            text = f"{name}: no ImageId: Ray takes its own choice of AMI for the region"
            yield consider("image", text, document.line(*at))
        image = mapping(config.get("azure_arm_parameters")).get("imageVersion")
        if provider == "azure" and str(image).lower() == "latest":
            line = document.line(*at, "azure_arm_parameters", "imageVersion")
            yield consider("image", f"{name}: imageVersion: latest changes under you", line)
        disks = config.get("disks")
        for i, disk in enumerate(disks if isinstance(disks, list) else []):
            source = str(mapping(mapping(disk).get("initializeParams")).get("sourceImage", ""))
            if provider == "gcp" and "/family/" in source:
                line = document.line(*at, "disks", i, "initializeParams", "sourceImage")
                yield consider("image", f"{name}: an image family changes under you", line)


def idle_findings(document: Document) -> Iterator[Finding]:
    """Nodes that may come and go: when they go."""
    if "idle_timeout_minutes" in document.tree:
        return
    for name, row in mapping(document.tree.get("available_node_types")).items():
        tree = mapping(row)
        elastic = tree.get("min_workers", 0) != tree.get("max_workers", 0)
        if elastic and name != document.tree.get("head_node_type") and "idle_timeout_s" not in tree:
            yield consider(
                "idle",
                f"{name}: no idle_timeout_s or idle_timeout_minutes; Ray's default is 5 minutes",
                document.line("available_node_types", name),
            )


def zone_findings(document: Document) -> Iterator[Finding]:
    """Is there more than one zone to find machines in?"""
    zones = mapping(document.tree.get("provider")).get("availability_zone")
    one = isinstance(zones, str | int) and "," not in str(zones) and str(zones) not in ("auto",)
    if one:
        yield consider(
            "zones",
            f"availability_zone: {zones} only; spot machines of a size are often sold out in one "
            "zone: name several, with commas",
            document.line("provider", "availability_zone"),
        )


def storage_findings(document: Document) -> Iterator[Finding]:
    """Is anything mounted that all nodes share?"""
    lines = [line for key in COMMAND_KEYS for line in listing(document.tree.get(key))]
    docker: Any = mapping(document.tree.get("docker"))
    options = [
        each
        for key, value in docker.items()
        if key.endswith("run_options")
        for each in listing(value)
    ]
    volumes = any(re.match(r"(-v|--volume|--mount)\b", str(each)) for each in options)
    if not volumes and not any(MOUNTED.search(str(line)) for line in lines):
        yield consider(
            "storage",
            "no command mounts anything; a run's directory (storage_path) and models must be on "
            "storage that every node sees at the same path",
        )
