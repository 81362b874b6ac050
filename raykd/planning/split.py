"""The best teacher:student split: every number of ranks that divides the batch, and replicas."""

from __future__ import annotations

from typing import Any, Final

from raykd.config.job import Job
from raykd.planning.estimate import dollars_an_hour, speed, teacher_works_in_training
from raykd.planning.fitting import Fitting, Surroundings, fit
from raykd.planning.plan_data import Split
from raykd.planning.speed import Rates

AS_GOOD: Final = 0.01
"""Rates within this share of each other are alike; the cheaper one wins."""
MOST_REPLICAS: Final = 4096


def changed(job: Job, changes: dict[str, Any]) -> Job:
    """The job with fields set, checked anew.

    Raises:
        ValueError: The job would not be valid.
    """
    tree = job.model_dump(mode="json")
    for key, value in changes.items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    return Job.model_validate(tree)


def rank_counts(job: Job, most: int) -> list[int]:
    """Numbers of ranks that share a step's micro-batches evenly."""
    micro_batches = job.train.global_batch // job.train.micro_batch
    exact = job.train.global_batch % job.train.micro_batch == 0
    return [k for k in range(1, min(most, micro_batches) + 1) if exact and micro_batches % k == 0]


def best_split(job: Job, around: Surroundings, fitting: Fitting, rates: Rates) -> Split | None:
    """Most tokens a second on the cluster's largest size; among equals the cheapest.

    Args:
        job: The job; all but replicas and ranks stays.
        around: Models and hardware.
        fitting: How the job itself lies.
        rates: What is known of speed.

    Returns:
        The split; None where the sides do not work together, or nothing tells their speed.
    """
    hardware = around.hardware
    if hardware is None or not teacher_works_in_training(job):
        return None
    one = changed(job, {"teacher.replicas": 1, "student.num_workers": 1})
    alone = speed(one, around, fit(one, around), rates)
    if alone.teacher_tokens_per_s is None or alone.student_tokens_per_s is None:
        return None
    ratio = alone.student_tokens_per_s / alone.teacher_tokens_per_s
    most_ranks = sum(int(t.max_nodes * (t.gpus or t.cpus * 100)) for t in hardware.node_types)
    found: list[tuple[float, float, int, int]] = []
    for ranks in rank_counts(job, most_ranks):
        wanted = min(MOST_REPLICAS, max(1, -(-ranks * ratio // 1)))
        candidate = _most_replicas(job, around, ranks, int(wanted))
        if candidate is None:
            break  # fewer pieces would have fitted before
        laid, replicas = candidate
        if not laid.fits or laid.layout is None:
            continue
        at = changed(job, {"teacher.replicas": replicas, "student.num_workers": ranks})
        tokens_per_s = speed(at, around, laid, rates).tokens_per_s or 0.0
        found.append((tokens_per_s, dollars_an_hour(hardware, laid.layout), replicas, ranks))
    if not found:
        return None
    best = max(one[0] for one in found)
    rate, _, replicas, ranks = min(
        (one for one in found if one[0] >= (1 - AS_GOOD) * best), key=lambda one: (one[1], -one[0])
    )
    own = speed(job, around, fitting, rates).tokens_per_s if fitting.fits else None
    return Split(
        replicas,
        ranks,
        rate,
        better_by=0.0 if not own else max(0.0, rate / own - 1.0),
        settings=(f"teacher.replicas={replicas}", f"student.num_workers={ranks}"),
    )


def _most_replicas(
    job: Job, around: Surroundings, ranks: int, wanted: int
) -> tuple[Fitting, int] | None:
    """The most replicas, up to those wanted, that have a place beside the ranks."""

    def at(replicas: int) -> Fitting:
        changes = {"teacher.replicas": replicas, "student.num_workers": ranks}
        return fit(changed(job, changes), around)

    least = at(1)
    if least.layout is None or not least.layout.fits:
        return None
    low, best, high = 1, least, wanted
    while low < high:
        middle = (low + high + 1) // 2
        found = at(middle)
        if found.layout is not None and found.layout.fits:
            low, best = middle, found
        else:
            high = middle - 1
    return best, low
