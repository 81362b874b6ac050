"""Pieces onto nodes: where they can lie, or that they cannot. Exact.

First pieces are laid by a few simple rules; where one succeeds, that is the answer. Else sums that
no placement can beat show that it cannot be. What is left is decided by a search (`search.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

from raykd.clusters.hardware import NodeType, Role
from raykd.pipeline.plan import TEACHER_REPLICAS
from raykd.planning.pieces import MILLI, ONE_OFF, STUDENT_RANKS, Piece
from raykd.planning.search import search

Counts = tuple[int, ...]
"""How many of each piece, in the pieces' order."""
ROLES: Final[Mapping[str, Role]] = {
    TEACHER_REPLICAS: "teacher",
    STUDENT_RANKS: "student",
    "loaders": "data",
    "reader": "data",
    ONE_OFF: "data",
}
"""Where a part belongs, where its labels leave the choice."""


@dataclass(frozen=True)
class Load:
    """Equal nodes that hold the same.

    Attributes:
        node_type: Their type.
        nodes: How many.
        holds: What each of them holds, by piece; never 0.
    """

    node_type: str
    nodes: int
    holds: Mapping[str, int]


@dataclass(frozen=True)
class Placement:
    """One way to lay all pieces."""

    loads: tuple[Load, ...]

    def nodes(self, node_type: str) -> int:
        """Nodes of a type that hold something."""
        return sum(load.nodes for load in self.loads if load.node_type == node_type)

    def on(self, part: str) -> dict[str, int]:
        """How many of a part lie on each node type."""
        found: dict[str, int] = {}
        for load in self.loads:
            if part in load.holds:
                found[load.node_type] = found.get(load.node_type, 0) + load.nodes * load.holds[part]
        return found


def place(pieces: Sequence[Piece], types: Sequence[NodeType]) -> Placement | None:
    """Lay pieces onto nodes.

    Args:
        pieces: What is held together; each part once.
        types: The cluster's node types; up to `max_nodes` of each may be used.

    Returns:
        A placement, or None where there is none.
    """
    wanted = [piece for piece in pieces if piece.count]
    room = Room(wanted, types)
    found = _by_rules(room) if room.may_hold() else None
    if found is None and room.may_hold():
        patterns = search(
            [piece.count for piece in wanted],
            [(each.max_nodes, room.patterns(each)) for each in types],
        )
        if patterns is not None:
            found = [(types[i].name, pattern) for i, pattern in patterns]
    return None if found is None else _placement(wanted, found)


def allows(piece: Piece, node: NodeType) -> bool:
    """Whether a node of this type carries the labels, and is large enough for one."""
    return piece.labels.items() <= node.labels.items() and _fitting(piece, node) > 0


def _fitting(piece: Piece, node: NodeType) -> int:
    """How many fit on an empty node, labels left aside."""
    limits = [piece.count]
    if piece.cpus:
        limits.append(round(node.cpus * MILLI) // piece.cpus)
    if piece.gpus:
        limits.append(node.gpus // piece.gpus)
    return min(limits)


class Room:
    """The pieces against the node types."""

    def __init__(self, pieces: Sequence[Piece], types: Sequence[NodeType]) -> None:
        self.pieces = pieces
        self.types = types

    def may_hold(self) -> bool:
        """False where a sum shows that no placement can be."""
        return all(map(self._alone, self.pieces)) and all(
            self._together(group) for group in self._groups()
        )

    def _alone(self, piece: Piece) -> bool:
        most = sum(
            each.max_nodes * _fitting(piece, each) for each in self.types if allows(piece, each)
        )
        return most >= piece.count

    def _groups(self) -> Iterator[list[Piece]]:
        """All pieces, and those of each set of labels."""
        yield list(self.pieces)
        labels = {tuple(sorted(piece.labels.items())) for piece in self.pieces}
        for wanted in labels:
            yield [p for p in self.pieces if tuple(sorted(p.labels.items())) == wanted]

    def _together(self, group: list[Piece]) -> bool:
        """CPUs and GPUs of all of them against those of all nodes that may hold any."""
        usable = [each for each in self.types if any(allows(piece, each) for piece in group)]
        cpus = sum(each.max_nodes * round(each.cpus * MILLI) for each in usable)
        gpus = sum(each.max_nodes * each.gpus for each in usable)
        return cpus >= sum(p.count * p.cpus for p in group) and gpus >= sum(
            p.count * p.gpus for p in group
        )

    def patterns(self, node: NodeType) -> list[Counts]:
        """All that one node of a type can hold and that is not part of something larger."""
        found: list[Counts] = []

        def extend(so_far: Counts, cpus: int, gpus: int) -> None:
            if len(so_far) == len(self.pieces):
                found.append(so_far)
                return
            piece = self.pieces[len(so_far)]
            most = 0
            if allows(piece, node):
                most = min(
                    piece.count,
                    cpus // piece.cpus if piece.cpus else piece.count,
                    gpus // piece.gpus if piece.gpus else piece.count,
                )
            for count in range(most, -1, -1):
                extend((*so_far, count), cpus - count * piece.cpus, gpus - count * piece.gpus)

        extend((), round(node.cpus * MILLI), node.gpus)
        return maximal(found)


def maximal(counts: list[Counts]) -> list[Counts]:
    """Those that no other is at least as large as in every place."""
    kept: list[Counts] = []
    for one in sorted(set(counts), reverse=True):
        if not any(all(a <= b for a, b in zip(one, other, strict=True)) for other in kept):
            kept.append(one)
    return kept


@dataclass
class _Open:
    """Equal nodes while they are filled."""

    type_index: int
    nodes: int
    cpus: int
    gpus: int
    holds: dict[int, int] = field(default_factory=dict)

    def fitting(self, piece: Piece) -> int:
        limits = [piece.count]
        if piece.cpus:
            limits.append(self.cpus // piece.cpus)
        if piece.gpus:
            limits.append(self.gpus // piece.gpus)
        return min(limits)

    def take(self, index: int, piece: Piece, each: int, nodes: int) -> _Open:
        """Split off `nodes` of them with `each` pieces more."""
        self.nodes -= nodes
        holds = {**self.holds, index: self.holds.get(index, 0) + each}
        return _Open(
            self.type_index,
            nodes,
            self.cpus - each * piece.cpus,
            self.gpus - each * piece.gpus,
            holds,
        )


Preference = Callable[[Room, Piece, NodeType], tuple[float, ...]]


def _as_people_would(room: Room, piece: Piece, node: NodeType) -> tuple[float, ...]:
    """Light pieces away from GPUs, each part on its role's nodes, those that run anyway first."""
    others = sum(allows(other, node) for other in room.pieces)
    return (
        bool(node.gpus) and not piece.gpus,
        node.role != ROLES.get(piece.part, node.role),
        node.min_nodes == 0,
        others,
    )


def _as_listed(room: Room, piece: Piece, node: NodeType) -> tuple[float, ...]:
    return ()


def _by_rules(room: Room) -> list[tuple[str, Counts]] | None:
    """Lay pieces one part after the other, fullest first, by a few orders."""
    largest_first = sorted(
        range(len(room.pieces)),
        key=lambda i: (-room.pieces[i].gpus, -room.pieces[i].cpus),
    )
    orders = [largest_first, *permutations(range(len(room.pieces)))]
    for prefer in (_as_people_would, _as_listed):
        for order in orders:
            laid = _lay(room, order, prefer)
            if laid is not None:
                return laid
    return None


def _lay(room: Room, order: Sequence[int], prefer: Preference) -> list[tuple[str, Counts]] | None:
    groups = [
        _Open(i, each.max_nodes, round(each.cpus * MILLI), each.gpus)
        for i, each in enumerate(room.types)
        if each.max_nodes
    ]
    for index in order:
        piece = room.pieces[index]
        left = piece.count
        fresh: list[_Open] = []
        usable = [g for g in groups if allows(piece, room.types[g.type_index])]
        # Nodes in use first, so that few are needed.
        usable.sort(key=lambda g: (*prefer(room, piece, room.types[g.type_index]), not g.holds))
        for group in usable:
            each = group.fitting(piece)
            if not each or not left:
                continue
            full = min(group.nodes, left // each)
            if full:
                fresh.append(group.take(index, piece, each, full))
                left -= full * each
            if left and group.nodes:
                part = min(left, each)
                fresh.append(group.take(index, piece, part, 1))
                left -= part
        if left:
            return None
        groups = [g for g in groups if g.nodes] + fresh
    return [
        (room.types[g.type_index].name, tuple(g.holds.get(i, 0) for i in range(len(room.pieces))))
        for g in groups
        if g.holds
        for _ in range(g.nodes)
    ]


def _placement(pieces: Sequence[Piece], found: list[tuple[str, Counts]]) -> Placement:
    """Count equal nodes together; no more of a piece than there are."""
    left = [piece.count for piece in pieces]
    nodes: dict[tuple[str, Counts], int] = {}
    for name, pattern in found:
        holds = tuple(min(a, b) for a, b in zip(pattern, left, strict=True))
        left = [a - b for a, b in zip(left, holds, strict=True)]
        if any(holds):
            nodes[name, holds] = nodes.get((name, holds), 0) + 1
    assert not any(left), "all pieces are laid"
    return Placement(
        tuple(
            Load(name, count, {p.part: n for p, n in zip(pieces, holds, strict=True) if n})
            for (name, holds), count in nodes.items()
        )
    )
