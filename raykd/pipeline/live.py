"""What the nodes of a live cluster say of themselves: versions, clocks, labels, the head."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raykd.config.job import Job
from raykd.pipeline import capacity, nodes
from raykd.pipeline.finding import Finding

SAME_EVERYWHERE = ("ray", "torch", "transformers", "deepspeed", "pyarrow")
"""Packages whose objects or files travel between nodes."""
SKEW_S = 2.0
"""Clocks that differ by more disturb tokens and certificates, and the order of log lines."""
HEAD_BYTES = 4 * 2**30
"""Ray's own processes on a head, Serve's and Train's controllers and the driver."""


@dataclass(frozen=True)
class NodeFacts:
    """A node, by itself.

    Attributes:
        versions: Of Python and of `SAME_EVERYWHERE`; None where a package is missing.
        time: Its clock, Unix seconds.
        memory_bytes: What the node or its container may use.
    """

    versions: Mapping[str, str | None]
    time: float
    memory_bytes: int


@dataclass(frozen=True)
class Seen:
    """A node, as the driver sees it.

    Attributes:
        name: Address and the begin of its id.
        is_head: Whether it is the head.
        cpus: CPUs that Ray gives out on it.
        labels: Its labels.
        facts: What it says, or the exception in its place.
        skew_s: Its clock minus the driver's, in seconds.
        skew_error_s: How far that may be off: half of the time that asking took.
    """

    name: str
    is_head: bool
    cpus: float
    labels: Mapping[str, str]
    facts: NodeFacts | BaseException
    skew_s: float = 0.0
    skew_error_s: float = 0.0


def facts_here() -> NodeFacts:
    """Of the node that this runs on."""
    from ray._common.utils import get_system_memory

    versions = {"Python": platform.python_version()}
    return NodeFacts(
        {**versions, **{name: _installed(name) for name in SAME_EVERYWHERE}},
        time.time(),
        int(get_system_memory()),
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look() -> list[Seen]:
    """Ask every node; a clock that was asked slowly is asked again, once its process runs."""
    found = {each.node: each for each in nodes.ask_every_node(facts_here)}
    for node, each in found.items():
        if isinstance(each.answer, NodeFacts) and each.received - each.sent > SKEW_S:
            found[node] = nodes.ask_node(node, facts_here)
    alive = {node["NodeID"]: node for node in nodes.alive()}
    return [_seen(alive[node], each) for node, each in found.items() if node in alive]


def _seen(node: dict[str, Any], each: nodes.Asked) -> Seen:
    skew = error = 0.0
    if isinstance(each.answer, NodeFacts):
        skew = each.answer.time - (each.sent + each.received) / 2
        error = (each.received - each.sent) / 2
    return Seen(
        nodes.name_of(node),
        nodes.HEAD in node["Resources"],
        node["Resources"].get("CPU", 0.0),
        node.get("Labels", {}),
        each.answer,
        skew,
        error,
    )


def check_versions(seen: Sequence[Seen], here: Mapping[str, str | None]) -> Finding:
    """Every node has the driver's Python, Ray, raykd and packages."""
    wrong = []
    for node in seen:
        if isinstance(node.facts, BaseException):
            wrong.append(f"{node.name}: {_why(node.facts)}")
            continue
        theirs = node.facts.versions
        wrong += [
            f"{node.name} has {name} {theirs.get(name) or 'not at all'}, the driver {mine}"
            for name, mine in here.items()
            if mine is not None and theirs.get(name) != mine
        ]
    if wrong:
        return Finding(
            False, "versions", f"{'; '.join(wrong)}: install the same on every node, or one image"
        )
    text = ", ".join(f"{name} {mine}" for name, mine in here.items() if mine)
    return Finding(True, "versions", f"{text} on {len(seen)} nodes")


def _why(error: BaseException) -> str:
    text = str(error)
    if "No module named 'raykd" in text:
        return "raykd is not installed there"
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_clocks(seen: Sequence[Seen]) -> Finding:
    """No node's clock is off by more than `SKEW_S`, beyond doubt."""
    asked = [node for node in seen if not isinstance(node.facts, BaseException)]
    wrong = [
        f"{node.name} is {abs(node.skew_s):.1f} s {'ahead' if node.skew_s > 0 else 'behind'}"
        for node in asked
        if abs(node.skew_s) - node.skew_error_s > SKEW_S
    ]
    if wrong:
        return Finding(
            False, "clocks", f"{'; '.join(wrong)} of the driver's: let NTP or chrony set them"
        )
    return Finding(True, "clocks", f"within {SKEW_S:g} s of the driver's, as far as asking tells")


def check_head(seen: Sequence[Seen]) -> list[Finding]:
    """The head has memory for what runs beside the work, and gives out no CPUs."""
    heads = [node for node in seen if node.is_head]
    if not heads or isinstance(heads[0].facts, BaseException):
        return []
    (head, facts) = heads[0], heads[0].facts
    gib = facts.memory_bytes / 2**30
    findings = [Finding(True, "head", f"{head.name}, {gib:.1f} GiB")]
    if facts.memory_bytes < HEAD_BYTES:
        findings = [
            Finding(
                False,
                "head",
                f"{head.name} has {gib:.1f} GiB; Ray's own processes, the controllers and the "
                f"driver need {HEAD_BYTES / 2**30:g} GiB: take a larger machine for the head",
            )
        ]
    if head.cpus and len(seen) > 1:
        findings.append(
            Finding(
                True,
                "head",
                f"{head.name} gives out {head.cpus:g} CPUs, so that work may land beside what the "
                "whole cluster depends on: start it with `--num-cpus=0`",
                hint=True,
            )
        )
    return findings


def check_roles(job: Job, seen: Sequence[Seen], grows: capacity.Growth | None) -> Finding:
    """Nodes carry the labels that the job's parts ask for, or may come that do."""
    parts = {
        "teacher": job.teacher.labels,
        "student": job.student.labels,
        "stream": job.stream.labels,
    }
    told, missing = [], []
    for part, labels in parts.items():
        if not labels:
            continue
        there = sum(labels.items() <= node.labels.items() for node in seen)
        kinds = [
            f"up to {kind.most} {kind.name}"
            for kind in (grows.kinds if grows else ())
            if kind.labels is None or labels.items() <= kind.labels.items()
        ]
        text = f"{part}.labels {_pairs(labels)}: {there} nodes"
        told.append(", ".join([text, *kinds]))
        # An autoscaler that does not say what it starts may start the right ones.
        unknown = grows is not None and not grows.kinds
        if not there and not kinds and not unknown:
            missing.append(f"{part}.labels: no node carries {_pairs(labels)}")
    if missing:
        return Finding(
            False, "roles", f"{'; '.join(missing)}; start nodes with `ray start --labels`"
        )
    return Finding(True, "roles", "; ".join(told) or "no part asks for labels")


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())
