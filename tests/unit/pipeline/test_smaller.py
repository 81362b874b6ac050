"""Going on with fewer ranks; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import CapacityError
from raykd.pipeline import cluster
from raykd.pipeline.plan import fewer_ranks
from raykd.pipeline.smaller import on_fewer_ranks, ranks_with_room

MakeJob = Callable[..., Any]
STUDENT = {"raykd-role": "student"}


def job_of(make_job: MakeJob, ranks: int, batch: int, micro: int, **more: Any) -> Any:
    return make_job(
        {
            "student.num_workers": ranks,
            "train.global_batch": batch,
            "train.micro_batch": micro,
            "student.cpus_per_worker": 1.0,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("ranks", "batch", "micro", "room", "found"),
    [
        (8, 64, 2, 7, 4),
        (8, 64, 2, 8, 4),  # fewer than there were, even if all had room now
        (6, 36, 2, 5, 3),
        (6, 36, 6, 5, 3),
        (3, 6, 2, 2, 1),
        (4, 8, 2, 0, 0),
        (1, 4, 2, 1, 0),
    ],
)
def test_the_most_ranks_that_divide_the_batch(
    ranks: int, batch: int, micro: int, room: int, found: int, make_job: MakeJob
) -> None:
    assert fewer_ranks(job_of(make_job, ranks, batch, micro), room) == found


def test_room_is_counted_beside_the_loaders(make_job: MakeJob) -> None:
    job = job_of(make_job, 4, 8, 2, **{"student.labels": STUDENT, "stream.cpus_per_loader": 0.5})
    student = ({"CPU": 2.0}, STUDENT)
    assert ranks_with_room(job, [student, ({"CPU": 0.9}, STUDENT)]) == 2
    # The loader has to stand on a student's node, and takes the room of a rank.
    assert ranks_with_room(job, [student, ({"CPU": 0.4}, {})]) == 1
    assert ranks_with_room(job, [student, ({"CPU": 8.0}, {})]) == 2
    assert ranks_with_room(job, []) == 0


def test_gpus_bound_the_room(make_job: MakeJob) -> None:
    job = job_of(make_job, 4, 8, 2, **{"student.device": "gpu"})
    assert ranks_with_room(job, [({"CPU": 64.0, "GPU": 2.0}, {})]) == 2


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def make(cpus: float) -> None:
        monkeypatch.setattr(cluster, "free_nodes", lambda: [({"CPU": cpus}, {})])

    return make


def test_going_on_is_told_and_keeps_the_batch(free: Any, make_job: MakeJob) -> None:
    free(3.5)
    notes: list[str] = []
    job = job_of(make_job, 4, 8, 2, **{"capacity.then": "smaller"})
    smaller = on_fewer_ranks(job, CapacityError("4 ranks got no room"), notes.append)
    assert smaller.student.num_workers == 2
    assert smaller.train == job.train
    (note,) = notes
    assert "going on with 2 student ranks" in note
    assert "same global batch of 8 rows, now 2 micro-batches a rank" in note
    assert "4 ranks got no room" in note


def test_the_job_says_stop(free: Any, make_job: MakeJob) -> None:
    free(3.5)
    with pytest.raises(CapacityError, match=r"no room.*capacity\.then: smaller"):
        on_fewer_ranks(job_of(make_job, 4, 8, 2), CapacityError("no room"), print)


def test_not_one_rank_has_room(free: Any, make_job: MakeJob) -> None:
    free(0.5)
    job = job_of(make_job, 4, 8, 2, **{"capacity.then": "smaller"})
    with pytest.raises(CapacityError, match="room for 0 ranks"):
        on_fewer_ranks(job, CapacityError("no room"), print)
