"""A ZeRO checkpoint and what lies beside it: random states, fingerprints of the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from raykd.config.job import Job
from raykd.errors import ModelError
from raykd.student import fingerprints, other_ranks, randomness

CHECKPOINT_TAG = "zero"


def save(engine: Any, job: Job, directory: Path) -> None:
    """Write weights and optimizer; every rank writes its own part and its random states.

    Args:
        engine: DeepSpeed's, around the student.
        job: The run's.
        directory: Of this checkpoint; it exists.
    """
    engine.save_checkpoint(
        str(directory),
        tag=CHECKPOINT_TAG,
        # Lets DeepSpeed's converter bring it to another number of ranks.
        client_state={"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}},
        exclude_frozen_parameters=job.student.lora is not None,
    )
    randomness.save(directory, dist.get_rank())
    if _is_sharded(job):
        sums = fingerprints.of_zero(engine.optimizer)
        if dist.get_rank() == 0:
            fingerprints.save(directory, sums)


def load(engine: Any, job: Job, directory: Path) -> None:
    """Bring an engine to what `save` wrote, on this or another number of ranks.

    Args:
        engine: DeepSpeed's, around the student.
        job: The run's.
        directory: Of the checkpoint.

    Raises:
        StorageError: It cannot be brought to this number of ranks, or what was loaded is not what
            was saved.
    """
    num_ranks, rank = dist.get_world_size(), dist.get_rank()
    saved = other_ranks.saved_ranks(directory) or num_ranks

    def load_from(form: Path) -> None:
        _load(engine, job, form)

    if saved == num_ranks or not _is_sharded(job):
        load_from(directory)
    else:
        form = other_ranks.convert_once(directory, CHECKPOINT_TAG, is_first=rank == 0)
        other_ranks.load(engine, form, load_from)
    if _is_sharded(job):
        fingerprints.require_same(directory, fingerprints.of_zero(engine.optimizer))
    if saved != num_ranks or not randomness.restore(directory, rank):
        randomness.seed_rank(job.seed, int(engine.global_steps), rank)


def _load(engine: Any, job: Job, directory: Path) -> None:
    loaded, _ = engine.load_checkpoint(
        str(directory),
        tag=CHECKPOINT_TAG,
        load_module_strict=job.student.lora is None,
        load_lr_scheduler_states=False,
    )
    if loaded is None:
        raise ModelError(f"DeepSpeed found no checkpoint to load in {directory}")


def _is_sharded(job: Job) -> bool:
    return job.student.zero_stage > 0
