"""What DeepSpeed holds of a student on one rank: counted, as raykd configures it.

Every number is checked against the tensors that a real student holds, stage by stage
(`tests/unit/planning/test_zero_bytes.py`).

Source: Rajbhandari et al., "ZeRO", arXiv 1910.02054, sections 3 and 5: what each stage shards; the
paddings and buffers are those of DeepSpeed 0.19 (`stage_1_and_2.py`, `stage3.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raykd.config.job import Job
from raykd.planning.shape import Parameter, total

MASTER_BYTES: Final = 4
MOMENT_BYTES: Final = 8
"""AdamW's two, in float32."""
BUCKET_NUMBERS: Final = 500_000_000
"""DeepSpeed's reduce_bucket_size; raykd leaves it as it is."""
PREFETCHED_NUMBERS: Final = 50_000_000
"""DeepSpeed's stage3_prefetch_bucket_size."""
PERSISTENT_NUMBERS: Final = 100_000
"""ZeRO 3 leaves smaller parameters whole on every rank."""
WIDTH_BYTES: Final = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class HeldByRank:
    """Bytes of one rank, and where they lie.

    Attributes:
        weights: Weights in the student's dtype.
        gathered: ZeRO 3: parameters that are whole at a time, those that always are among them.
        gradients: Gradients between micro-batches.
        masters: float32 weights that the optimizer keeps.
        moments: AdamW's moments.
        step_gradients: float32 gradients while the optimizer steps.
        bucket: The buffer that gradients are reduced in.
        staging: A buffer of the largest parameter on each side of an offload, ZeRO 1 and 2.
        weights_on_host, optimizer_on_host: Whether these lie in CPU memory.
    """

    weights: int
    gathered: int
    gradients: int
    masters: int
    moments: int
    step_gradients: int
    bucket: int
    staging: int = 0
    weights_on_host: bool = False
    optimizer_on_host: bool = False

    @property
    def optimizer(self) -> int:
        """Masters and moments."""
        return self.masters + self.moments


def held_by_rank(
    job: Job,
    frozen: Sequence[Parameter],
    trained: Sequence[Parameter],
    rank: int | None = None,
) -> HeldByRank:
    """Count what a rank holds.

    Args:
        job: The job: stage, dtype, ranks, offload.
        frozen: Parameters that do not learn.
        trained: Those that do.
        rank: Which rank; None is the one that holds most.
    """
    student = job.student
    width = WIDTH_BYTES[student.dtype]
    stage, ranks = student.zero_stage, student.num_workers
    everything = [*frozen, *trained]
    shard = _sharded(trained, stage, ranks)
    # In float32 without ZeRO the weights are their own masters.
    keeps_masters = stage > 0 or student.dtype == "bf16"
    weights = _flat(trained, stage, ranks) + total(frozen)
    if stage == 3:
        weights = _partitions(everything, ranks)
    stages = stage < 3 and student.offload != "none"
    gathers = stage == 3 and (ranks > 1 or student.offload == "all")
    return HeldByRank(
        weights=width * weights,
        gathered=width * _gathered(everything) if gathers else 0,
        gradients=width * _gradients(trained, stage, ranks, rank),
        masters=MASTER_BYTES * shard if keeps_masters else 0,
        moments=MOMENT_BYTES * shard,
        step_gradients=MASTER_BYTES * shard if keeps_masters else 0,
        bucket=width * BUCKET_NUMBERS if stage > 0 else 0,
        staging=width * max(p.size for p in trained) if stages else 0,
        weights_on_host=student.offload == "all",
        optimizer_on_host=student.offload != "none",
    )


def _groups(trained: Sequence[Parameter]) -> list[list[Parameter]]:
    """The optimizer's: matrices decay, vectors do not."""
    matrices = [p for p in trained if len(p.shape) >= 2]
    vectors = [p for p in trained if len(p.shape) < 2]
    return [group for group in (matrices, vectors) if group]


def _sharded(trained: Sequence[Parameter], stage: int, ranks: int) -> int:
    """Numbers of the optimizer's that one rank has."""
    if stage == 0:
        return total(trained)
    if stage == 3:
        return _partitions(trained, ranks)
    return _flat(trained, stage, ranks) // ranks


def _flat(trained: Sequence[Parameter], stage: int, ranks: int) -> int:
    """Numbers of all trained parameters, padded where ZeRO lays a group end to end."""
    if stage == 0:
        return total(trained)
    aligned = 2 * ranks
    return sum(-(-total(group) // aligned) * aligned for group in _groups(trained))


def _gradients(trained: Sequence[Parameter], stage: int, ranks: int, rank: int | None) -> int:
    """Numbers that stay between micro-batches.

    Stage 2 keeps the gradient of a parameter whole where its part of the flat group ends in it.
    """
    if stage < 2:
        return total(trained)
    if stage == 3:
        return _partitions(trained, ranks)
    asked = range(ranks) if rank is None else [rank]
    return max(sum(_touched(group, ranks, one) for group in _groups(trained)) for one in asked)


def _touched(group: Sequence[Parameter], ranks: int, rank: int) -> int:
    """Numbers of all parameters of a group that a rank has some of."""
    share = _flat(group, 2, ranks) // ranks
    first, last = rank * share, (rank + 1) * share
    touched, at = 0, 0
    for parameter in group:
        if at < last and at + parameter.size > first:
            touched += parameter.size
        at += parameter.size
    return touched


def _partitions(parameters: Sequence[Parameter], ranks: int) -> int:
    """ZeRO 3 cuts each parameter by itself, rounded up."""
    return sum(-(-p.size // ranks) for p in parameters)


def _gathered(parameters: Sequence[Parameter]) -> int:
    """What is whole at a time: small ones always, one large one, and what is fetched ahead."""
    small = sum(p.size for p in parameters if p.size <= PERSISTENT_NUMBERS)
    large = [p.size for p in parameters if p.size > PERSISTENT_NUMBERS]
    ahead = min(PREFETCHED_NUMBERS, sum(large))
    return small + max(large, default=0) + ahead
