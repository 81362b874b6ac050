"""Jobs onto hardware, drawn at random: the plan against brute force from the job's own fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_placement import brute_force

from raykd.clusters.hardware import NodeType
from raykd.planning.layout import lay_out
from raykd.planning.pieces import MILLI, Piece

MakeJob = Callable[..., Any]
NO_LABELS: dict[str, str] = {}
TEACHER, STUDENT = {"raykd-role": "teacher"}, {"raykd-role": "student"}
DATA = {"raykd-role": "data"}

jobs = st.fixed_dictionaries(
    {
        "teacher.replicas": st.integers(1, 3),
        "teacher.tensor_parallel": st.integers(1, 2),
        "teacher.cpus_per_shard": st.sampled_from([0.25, 1, 2]),
        "teacher.device": st.sampled_from(["cpu", "gpu"]),
        "teacher.labels": st.sampled_from([NO_LABELS, TEACHER]),
        "student.num_workers": st.sampled_from([1, 2, 4]),
        "student.cpus_per_worker": st.sampled_from([0.5, 1, 3]),
        "student.device": st.sampled_from(["cpu", "gpu"]),
        "student.labels": st.sampled_from([NO_LABELS, STUDENT]),
        "stream.num_loaders": st.integers(1, 2),
        "stream.labels": st.sampled_from([NO_LABELS, NO_LABELS, DATA]),
        "stream.cpus_per_loader": st.sampled_from([0.25, 1]),
        "soft_targets.store_mode": st.sampled_from(["use", "fill", "only"]),
        "train.micro_batch": st.just(1),
    }
)
node_types = st.lists(
    st.builds(
        lambda labels, most, cpus, gpus: (labels, most, cpus, gpus),
        st.sampled_from([NO_LABELS, TEACHER, STUDENT, DATA]),
        st.integers(0, 2),
        st.sampled_from([0.0, 1.0, 2.0, 4.0, 8.0]),
        st.sampled_from([0, 1, 2, 4]),
    ),
    min_size=1,
    max_size=3,
)


def bundles(job: Any) -> list[list[Piece]]:
    """What must lie somewhere at the same time, written down from the job, one by one."""
    teacher, student, stream = job.teacher, job.student, job.stream
    on_gpu = teacher.device == "gpu"
    replica_cpus = round((teacher.tensor_parallel * teacher.cpus_per_shard + 0.01) * MILLI)
    replicas = Piece(
        "r",
        teacher.replicas,
        replica_cpus,
        teacher.tensor_parallel if on_gpu else 0,
        teacher.labels,
    )
    rank_cpus = round(student.cpus_per_worker * MILLI)
    ranks = Piece("k", student.num_workers, rank_cpus, int(student.device == "gpu"), student.labels)
    loading = [
        Piece("l", stream.num_loaders, round(stream.cpus_per_loader * MILLI), 0, stream.labels),
        Piece("d", 1, round(0.05 * MILLI), 0, stream.labels),
    ]
    first = [Piece("o", 1, MILLI, 0, stream.labels)]
    training = [ranks, *loading]
    mode = job.soft_targets.store_mode
    if mode == "only":
        return [first, training]
    if mode == "fill":
        return [first, [replicas, *loading], training]
    return [first, [replicas, *training]]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=jobs, hardware=node_types)
def test_a_job_has_its_place_where_brute_force_finds_one(
    changes: dict[str, Any], hardware: list[tuple[Any, ...]], make_job: MakeJob
) -> None:
    job = make_job(changes)
    types = [
        NodeType(f"type-{i}", None, labels, 0, most, cpus, gpus)
        for i, (labels, most, cpus, gpus) in enumerate(hardware)
    ]
    expected = all(brute_force(phase, types) for phase in bundles(job))
    assert lay_out(job, types).fits == expected
