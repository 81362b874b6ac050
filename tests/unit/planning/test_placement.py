"""Placement against brute force: another way to decide the same, by code of its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.clusters.hardware import NodeType
from raykd.planning.pieces import MILLI, Piece
from raykd.planning.placement import Placement, Room, place
from raykd.planning.search import search

LABELS: list[dict[str, str]] = [{}, {"raykd-role": "teacher"}, {"raykd-role": "student"}]


def node_type(
    name: str, most: int, cpus: float, gpus: int, labels: dict[str, str] | None = None
) -> NodeType:
    return NodeType(name, None, labels or {}, 0, most, cpus, gpus)


def piece(
    part: str, count: int, cpus: float, gpus: int = 0, labels: dict[str, str] | None = None
) -> Piece:
    return Piece(part, count, round(cpus * MILLI), gpus, labels or {})


def check(placement: Placement, pieces: list[Piece], types: list[NodeType]) -> None:
    """Nothing is promised that the bundles cannot have: counted anew, node by node."""
    by_name = {each.name: each for each in types}
    by_part = {each.part: each for each in pieces}
    laid = dict.fromkeys(by_part, 0)
    nodes = dict.fromkeys(by_name, 0)
    for load in placement.loads:
        node = by_name[load.node_type]
        nodes[load.node_type] += load.nodes
        assert sum(n * by_part[p].cpus for p, n in load.holds.items()) <= node.cpus * MILLI
        assert sum(n * by_part[p].gpus for p, n in load.holds.items()) <= node.gpus
        for part, count in load.holds.items():
            laid[part] += load.nodes * count
            assert by_part[part].labels.items() <= node.labels.items()
    assert laid == {each.part: each.count for each in pieces}
    for name, used in nodes.items():
        assert used <= by_name[name].max_nodes


def brute_force(pieces: list[Piece], types: list[NodeType]) -> bool:
    """Try every node for every single piece, one after the other."""
    singles = [p for p in pieces for _ in range(p.count)]
    start = tuple(
        (t.name, round(t.cpus * MILLI), t.gpus) for t in types for _ in range(t.max_nodes)
    )
    labels = {t.name: t.labels for t in types}

    @cache
    def rest_fits(at: int, free: tuple[tuple[str, int, int], ...]) -> bool:
        if at == len(singles):
            return True
        one = singles[at]
        for i, (name, cpus, gpus) in enumerate(free):
            if cpus < one.cpus or gpus < one.gpus:
                continue
            if not one.labels.items() <= labels[name].items():
                continue
            left = sorted([*free[:i], (name, cpus - one.cpus, gpus - one.gpus), *free[i + 1 :]])
            if rest_fits(at + 1, tuple(left)):
                return True
        return False

    return rest_fits(0, tuple(sorted(start)))


@st.composite
def problems(draw: Any) -> tuple[list[Piece], list[NodeType]]:
    cpus = st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.0, 4.0])
    types = [
        node_type(
            f"type-{i}",
            draw(st.integers(0, 2)),
            draw(cpus),
            draw(st.sampled_from([0, 0, 1, 2, 4])),
            draw(st.sampled_from(LABELS)),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    pieces = [
        piece(
            f"part-{i}",
            draw(st.integers(0, 3)),
            draw(st.sampled_from([0.05, 0.25, 0.76, 1.0, 1.5, 2.0])),
            draw(st.sampled_from([0, 0, 1, 2])),
            draw(st.sampled_from(LABELS)),
        )
        for i in range(draw(st.integers(1, 4)))
    ]
    return pieces, types


@settings(max_examples=200, deadline=None)
@given(problems())
def test_places_exactly_what_brute_force_places(
    problem: tuple[list[Piece], list[NodeType]],
) -> None:
    pieces, types = problem
    found = place(pieces, types)
    assert (found is not None) == brute_force(pieces, types)
    if found is not None:
        check(found, [p for p in pieces if p.count], types)


@settings(max_examples=80, deadline=None)
@given(problems())
def test_the_search_alone_is_exact(problem: tuple[list[Piece], list[NodeType]]) -> None:
    pieces, types = problem
    room = Room([p for p in pieces if p.count], types)
    patterns = [(each.max_nodes, room.patterns(each)) for each in types]
    found = search([p.count for p in room.pieces], patterns)
    assert (found is not None or not room.pieces) == brute_force(pieces, types)


def test_shards_of_a_replica_share_a_node() -> None:
    replicas = piece("teacher replicas", 1, 4.01, 4)
    assert place([replicas], [node_type("small", 8, 8, 2)]) is None
    assert place([replicas], [node_type("large", 1, 8, 4)]) is not None


def test_labels_keep_parts_apart() -> None:
    types = [
        node_type("teacher", 2, 8, 2, {"raykd-role": "teacher", "zone": "a"}),
        node_type("student", 2, 8, 2, {"raykd-role": "student"}),
    ]
    pieces = [
        piece("teacher replicas", 4, 1, 1, {"raykd-role": "teacher"}),
        piece("student ranks", 4, 1, 1, {"raykd-role": "student"}),
        piece("loaders", 2, 1),
    ]
    found = place(pieces, types)
    assert found is not None
    assert found.on("teacher replicas") == {"teacher": 4}
    assert found.on("student ranks") == {"student": 4}
    assert place([piece("student ranks", 5, 1, 1, {"raykd-role": "student"})], types) is None


def test_a_head_without_cpus_holds_nothing() -> None:
    head = node_type("head", 1, 0, 0)
    assert place([piece("reader", 1, 0.05)], [head]) is None


def test_rules_miss_and_the_search_finds() -> None:
    """Two nodes of 10 CPUs for 4 + 4 + 3 + 3 + 3 + 3: only 4 + 3 + 3 on each will do."""
    types = [node_type("node", 2, 10, 0)]
    pieces = [piece("fours", 2, 4), piece("threes", 4, 3)]
    found = place(pieces, types)
    assert found is not None
    assert [load.holds for load in found.loads] == [{"fours": 1, "threes": 2}]
    check(found, pieces, types)


def test_light_pieces_leave_gpu_nodes_alone() -> None:
    types = [node_type("gpu", 2, 8, 8), node_type("cpu", 2, 8, 0)]
    found = place([piece("student ranks", 8, 1, 1), piece("loaders", 4, 1)], types)
    assert found is not None
    assert found.on("loaders") == {"cpu": 4}


def large() -> Iterator[tuple[list[Piece], list[NodeType]]]:
    """Hundreds of GPUs, exactly full or one too many."""
    for more in (0, 1):
        yield (
            [
                piece("teacher replicas", 300 + more, 6.01, 3),
                piece("student ranks", 128, 4, 1),
                piece("loaders", 64, 1),
                piece("reader", 1, 0.05),
            ],
            [node_type("node", 150, 64, 8)],
        )


@pytest.mark.parametrize("problem", list(large()), ids=["fits", "one too many"])
def test_large_clusters_take_no_time(problem: tuple[list[Piece], list[NodeType]]) -> None:
    started = time.process_time()
    found = place(*problem)
    assert (found is not None) == (problem[0][0].count == 300)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("ranks", [330, 331, 420])
def test_what_only_the_search_decides_takes_no_time(ranks: int) -> None:
    """Two replicas a node leave 2 GPUs; one leaves 5, and CPUs run short elsewhere."""
    types = [node_type("node", 150, 24, 8)]
    pieces = [
        piece("teacher replicas", 290 if ranks < 400 else 260, 6.01, 3),
        piece("student ranks", ranks, 4, 1),
        piece("loaders", 64, 1),
    ]
    started = time.process_time()
    found = place(pieces, types)
    assert time.process_time() - started < 2.0
    if found is not None:
        check(found, pieces, types)


def test_brute_force_itself() -> None:
    types = [node_type("node", 2, 2, 1)]
    assert brute_force([piece("a", 2, 1, 1)], types)
    assert not brute_force([piece("a", 3, 0.1, 1)], types)
    assert not brute_force([piece("a", 1, 1, 0, {"x": "y"})], types)
    for count in itertools.count(1):
        if not brute_force([piece("a", count, 1)], types):
            assert count == 5
            break
