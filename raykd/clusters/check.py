"""All rules for one cluster file. Nothing is asked of a cloud, and no Ray is started."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from raykd.clusters import (
    kuberay_rules,
    launcher_rules,
    launcher_security,
    node_rules,
    skypilot_rules,
)
from raykd.clusters.aws_node_config import aws_findings
from raykd.clusters.documents import Document
from raykd.clusters.finding import Finding, fix
from raykd.clusters.hardware import Hardware
from raykd.clusters.job_fit import fit_findings
from raykd.clusters.kind import Kind, read_kind
from raykd.clusters.kuberay import cluster_specs, groups_of
from raykd.clusters.kuberay_schema import kuberay_schema_findings
from raykd.clusters.launcher import provider_of
from raykd.clusters.launcher_schema import launcher_schema_findings
from raykd.clusters.on_prem import AT as ON_PREM
from raykd.clusters.on_prem import described
from raykd.clusters.read import hardware_of
from raykd.clusters.written_secrets import secret_findings
from raykd.config.job import Job
from raykd.errors import JobError

Rules = list[tuple[str, str, Iterable[Finding]]]
"""A subject, what is so where no rule of it complains, and its complaints."""


def check_cluster(path: Path, job: Job | None = None) -> list[Finding]:
    """Look at a cluster file, and at whether a job finds its place there.

    Raises:
        JobError: It is no cluster file at all; says what it seems to be.
    """
    kind, documents = read_kind(path)
    rules = {
        "launcher": lambda: _launcher_rules(documents[0], path),
        "skypilot": lambda: _skypilot_rules(documents[0]),
        "kuberay": lambda: _kuberay_rules(documents),
        "kubernetes": lambda: _kubernetes_rules(documents),
    }
    found = _settled(rules[kind]())
    found += _settled([("secrets", "none is written in the file", secret_findings(documents))])
    if kind == "kubernetes":
        return found if job is None else [*found, fix("fit", "no Ray cluster is in the file")]
    return found + _about_nodes(kind, documents, path, job)


def _launcher_rules(document: Document, path: Path) -> Rules:
    provider = provider_of(document, path)
    security = launcher_security
    rules: Rules = [
        ("schema", "as Ray has it", launcher_schema_findings(document)),
        ("provider", provider, launcher_rules.provider_findings(document, provider, path)),
    ]
    if provider == "aws":
        rules.append(("node_config", "as EC2's RunInstances has it", aws_findings(document)))
    if provider in ("aws", "azure"):
        rules.append(
            ("zones", "more than one, or left open", launcher_rules.zone_findings(document))
        )
    if provider != "on-prem":
        rules.append(("idle", "idle nodes go", launcher_rules.idle_findings(document)))
    home = "the dashboard stays on the head"
    closed = f"{home}, and nothing but SSH is opened" if provider == "aws" else home
    return [
        *rules,
        ("image", "pinned", launcher_rules.software_findings(document, provider)),
        ("auth", "a token is asked for", security.auth_findings(document)),
        ("ports", closed, security.port_findings(document, provider)),
        ("storage", "something is mounted", launcher_rules.storage_findings(document)),
    ]


def _skypilot_rules(document: Document) -> Rules:
    return [
        ("image", "pinned", skypilot_rules.image_findings_of(document)),
        ("auth", "a token is asked for", skypilot_rules.auth_findings(document)),
        ("ports", "the dashboard stays on the head", skypilot_rules.port_findings(document)),
    ]


def _kubernetes_rules(documents: list[Document]) -> Rules:
    """For manifests without a Ray cluster: what any of them can get wrong."""
    rules = kuberay_rules
    return [
        ("image", "none, or pinned", rules.software_findings(documents)),
        ("ports", "nothing opens to the outside", rules.port_findings(documents)),
    ]


def _kuberay_rules(documents: list[Document]) -> Rules:
    rules = kuberay_rules
    return [
        ("schema", "as KubeRay has it", kuberay_schema_findings(documents)),
        ("scaling", "counts fit together", rules.cluster_findings(documents)),
        ("image", "pinned", rules.software_findings(documents)),
        ("auth", "a token is asked for", rules.auth_findings(documents)),
        ("ports", "nothing opens to the outside", rules.port_findings(documents)),
        ("idle", "idle pods go", rules.idle_findings(documents)),
        ("storage", "shared volumes are mounted", rules.storage_findings(documents)),
    ]


def _settled(rules: Rules) -> list[Finding]:
    """The complaints of each subject, or that there are none."""
    found = []
    for subject, good, complaints in rules:
        found += list(complaints) or [Finding("ok", subject, good)]
    return found


def _about_nodes(
    kind: Kind, documents: list[Document], path: Path, job: Job | None
) -> list[Finding]:
    try:
        hardware = hardware_of(kind, documents, path)
    except JobError as error:
        return [fix("hardware", _without_place(str(error), path), _line_in(str(error), path))]
    line = _lines_of(kind, documents)
    rules: Rules = [("roles", _roles_text(hardware), node_rules.role_findings(hardware, line))]
    if hardware.of_role("head"):
        good = "does no work, has memory, and stays"
        rules.append(("head", good, node_rules.head_findings(hardware, line)))
    rules.append(("spot", _spot_text(hardware), node_rules.spot_findings(hardware, line)))
    found = _settled(rules)
    if job is not None:
        good = "every part of the job finds nodes"
        found += _settled([("fit", good, fit_findings(job, hardware))])
    return found


def _lines_of(kind: Kind, documents: list[Document]) -> Callable[[str], int | None]:
    if kind == "launcher":
        at = ON_PREM if described(documents[0]) else ("available_node_types",)
        return lambda name: documents[0].line(*at, name)
    if kind == "skypilot":
        return lambda name: documents[0].line("resources")
    lines = {
        group.name: group.line() for each in cluster_specs(documents) for group in groups_of(*each)
    }
    return lines.get


def _roles_text(hardware: Hardware) -> str:
    return ", ".join(
        f"{each.name} {each.role or 'any'} {each.min_nodes} to {each.max_nodes}"
        for each in hardware.node_types
    )


def _spot_text(hardware: Hardware) -> str:
    return ", ".join(each.name for each in hardware.node_types if each.spot) or "none"


def _line_in(message: str, path: Path) -> int | None:
    place = message.removeprefix(f"{path}:").partition(":")[0]
    return int(place) if place.isdigit() else None


def _without_place(message: str, path: Path) -> str:
    rest = message.removeprefix(f"{path}:").removeprefix(" ")
    place, _, text = rest.partition(": ")
    return text if place.isdigit() else rest
