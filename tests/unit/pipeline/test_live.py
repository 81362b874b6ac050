"""What is said of the nodes of a live cluster; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from raykd.errors import ResourceError
from raykd.pipeline import cluster, live, nodes
from raykd.pipeline.capacity import Growth, NodeKind
from raykd.pipeline.live import NodeFacts, Seen

MakeJob = Callable[..., Any]
HERE = {"Python": "3.11.7", "ray": "2.60.0", "deepspeed": None}
GIB = 2**30


def seen(
    name: str,
    facts: Any = None,
    *,
    head: bool = False,
    cpus: float = 0.0,
    labels: Mapping[str, str] | None = None,
    skew: tuple[float, float] = (0.0, 0.01),
    gib: int = 16,
) -> Seen:
    facts = facts or NodeFacts(HERE, 0.0, gib * GIB)
    return Seen(name, head, cpus, labels or {}, facts, *skew)


def test_the_same_everywhere() -> None:
    finding = live.check_versions([seen("a"), seen("b")], HERE)
    assert finding.ok
    assert finding.text == "Python 3.11.7, ray 2.60.0 on 2 nodes"


def test_another_version_is_named_with_its_node() -> None:
    other = NodeFacts({**HERE, "ray": "2.59.0"}, 0.0, GIB)
    none = NodeFacts({**HERE, "ray": None}, 0.0, GIB)
    finding = live.check_versions([seen("a"), seen("b", other), seen("c", none)], HERE)
    assert not finding.ok
    assert "b has ray 2.59.0, the driver 2.60.0" in finding.text
    assert "c has ray not at all" in finding.text
    assert "a has" not in finding.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("ModuleNotFoundError: No module named 'raykd'"), "raykd is not installed"),
        (ResourceError("no answer within 180 s"), "no answer within 180 s"),
    ],
)
def test_a_node_that_cannot_answer(error: Exception, said: str) -> None:
    finding = live.check_versions([seen("b", error)], HERE)
    assert not finding.ok
    assert f"b: {said}" in finding.text


@pytest.mark.parametrize(
    ("skew", "said"),
    [
        ((1.9, 0.0), None),
        ((3.5, 0.2), "b is 3.5 s ahead"),
        ((-3.5, 0.2), "b is 3.5 s behind"),
        ((3.5, 2.0), None),  # asking took four seconds: it may be half of one
    ],
)
def test_clocks(skew: tuple[float, float], said: str | None) -> None:
    finding = live.check_clocks([seen("a"), seen("b", skew=skew)])
    assert finding.ok == (said is None)
    assert said is None or said in finding.text


def test_skew_is_measured_against_the_middle_of_the_round_trip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = {"NodeID": "ab" * 28, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 4.0}}
    slow = nodes.Asked(node["NodeID"], NodeFacts(HERE, 1003.0, GIB), 1000.0, 1008.0)
    fast = nodes.Asked(node["NodeID"], NodeFacts(HERE, 1012.5, GIB), 1009.0, 1010.0)
    monkeypatch.setattr(nodes, "alive", lambda: [node])
    monkeypatch.setattr(nodes, "ask_every_node", lambda *_: [slow])
    monkeypatch.setattr(nodes, "ask_node", lambda *_: fast)
    (found,) = live.look()
    assert found.name == "10.0.0.2/abababab"
    assert (found.skew_s, found.skew_error_s) == (3.0, 0.5)
    assert not live.check_clocks([found]).ok


def test_the_head_needs_memory() -> None:
    (finding,) = live.check_head([seen("a", head=True, gib=2), seen("b", gib=1)])
    assert not finding.ok
    assert "a has 2.0 GiB" in finding.text
    (finding,) = live.check_head([seen("a", head=True, gib=16)])
    assert finding.ok


def test_a_head_that_gives_out_cpus_is_a_hint_where_there_are_others() -> None:
    alone = live.check_head([seen("a", head=True, cpus=8)])
    assert not any(finding.hint for finding in alone)
    *_, hint = live.check_head([seen("a", head=True, cpus=8), seen("b")])
    assert hint.ok
    assert hint.hint
    assert "--num-cpus=0" in hint.text


def test_roles(make_job: MakeJob) -> None:
    job = make_job({"teacher.labels": {"raykd-role": "teacher"}, "stream.labels": {"pool": "x"}})
    nodes = [seen("a", labels={"raykd-role": "teacher"})]
    finding = live.check_roles(job, nodes, None)
    assert not finding.ok
    assert "stream.labels: no node carries pool=x" in finding.text
    assert "teacher.labels" not in finding.text
    grows = Growth((NodeKind("data", {"CPU": 8}, {"pool": "x"}, 4),))
    finding = live.check_roles(job, nodes, grows)
    assert finding.ok
    assert "stream.labels pool=x: 0 nodes, up to 4 data" in finding.text
    assert live.check_roles(job, nodes, Growth(())).ok


def test_another_ray_is_named_in_one_line() -> None:
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
        "This process on node 1.2.3.4 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    told = cluster._other_version("10.0.0.1:6379", said)
    assert "\n" not in told
    assert "Ray: 2.59.0 Python: 3.12.1" in told
    assert "Ray: 2.60.0 Python: 3.11.7" in told
