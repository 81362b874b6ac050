"""All phases of a job on the cluster: what lies where, and what has no place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.clusters.hardware import Hardware, NodeType
from raykd.config.job import Job
from raykd.pipeline.plan import TEACHER_REPLICAS
from raykd.planning.pieces import MILLI, Piece, pieces
from raykd.planning.placement import Placement, allows, place


@dataclass(frozen=True)
class Layout:
    """Every phase with its placement.

    Attributes:
        phases: What is held together, by phase.
        placements: Where it lies; None for a phase that does not fit.
    """

    phases: dict[str, list[Piece]]
    placements: dict[str, Placement | None]

    @property
    def fits(self) -> bool:
        """Whether every phase has its place."""
        return all(placement is not None for placement in self.placements.values())

    def used(self, node_type: str) -> int:
        """Most nodes of a type that a phase needs."""
        return max((p.nodes(node_type) for p in self.placements.values() if p), default=0)

    def on(self, part: str) -> dict[str, int]:
        """Where a part lies in the last phase that has it."""
        found: dict[str, int] = {}
        for placement in self.placements.values():
            if placement is not None and placement.on(part):
                found = placement.on(part)
        return found


def lay_out(job: Job, types: Sequence[NodeType]) -> Layout:
    """Place every phase of a job; an elastic teacher with as many replicas as fit.

    Args:
        job: The job.
        types: The cluster's node types.
    """
    wanted = pieces(job)
    found: dict[str, Placement | None] = {}
    for name, phase in wanted.items():
        found[name] = place(phase, types)
        if found[name] is not None:
            wanted[name], found[name] = _grown(job, phase, types, found[name])
    return Layout(wanted, found)


def _grown(
    job: Job, phase: list[Piece], types: Sequence[NodeType], least: Placement | None
) -> tuple[list[Piece], Placement | None]:
    """The phase with the most replicas, up to the job's, that have a place."""
    at = next((i for i, p in enumerate(phase) if p.part == TEACHER_REPLICAS), None)
    if at is None or phase[at].count >= job.teacher.max_replicas:
        return phase, least
    best = phase, least
    low, high = phase[at].count, job.teacher.max_replicas
    while low < high:
        middle = (low + high + 1) // 2
        more = [*phase[:at], phase[at].times(middle), *phase[at + 1 :]]
        placement = place(more, types)
        if placement is None:
            high = middle - 1
        else:
            low, best = middle, (more, placement)
    return best


def why_not(job: Job, layout: Layout, hardware: Hardware) -> list[str]:
    """Why phases have no place, in words; nothing where all have."""
    found = []
    for name, placement in layout.placements.items():
        if placement is None:
            alone = [text for p in layout.phases[name] if (text := _alone(p, hardware.node_types))]
            found += [f"{name}: {text}" for text in alone or [_sum(layout.phases[name], hardware)]]
    return list(dict.fromkeys(found))


def _alone(piece: Piece, types: Sequence[NodeType]) -> str | None:
    what = f"{piece.part} ({piece.cpus / MILLI:g} CPUs and {piece.gpus} GPUs on one node)"
    if place([piece], types) is not None:
        return None
    carrying = [t for t in types if piece.labels.items() <= t.labels.items() and t.max_nodes]
    if not carrying:
        return f"no node type carries the labels {dict(piece.labels)} of {piece.part}"
    if not any(allows(piece, each) for each in carrying):
        return f"no node type {'with its labels ' if piece.labels else ''}can hold one of {what}"
    names = ", ".join(f"{t.max_nodes} {t.name}" for t in carrying if allows(piece, t))
    return f"{piece.count} {what} do not fit on {names}"


def _sum(phase: Sequence[Piece], hardware: Hardware) -> str:
    cpus = sum(p.count * p.cpus for p in phase) / MILLI
    gpus = sum(p.count * p.gpus for p in phase)
    have_cpus = sum(t.max_nodes * t.cpus for t in hardware.node_types)
    have_gpus = sum(t.max_nodes * t.gpus for t in hardware.node_types)
    return (
        f"together they need {cpus:g} CPUs and {gpus} GPUs; all nodes have {have_cpus:g} and "
        f"{have_gpus}, but not where the pieces need them"
        if cpus <= have_cpus and gpus <= have_gpus
        else f"together they need {cpus:g} CPUs and {gpus} GPUs; all nodes have {have_cpus:g} and "
        f"{have_gpus}"
    )
