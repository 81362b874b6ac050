"""A real student on one rank of a group, and the bytes of all tensors that it holds.

Run by a test as a process of its own for more than one rank. Arguments: model directory, rank,
ranks, file of the group's store, cases as JSON, output file.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pyarrow as pa
import torch

sys.path.append(str(Path(__file__).parents[1] / "student"))

from dense_reference import make_scored, spec_of

from raykd import schema
from raykd.config.job import Job
from raykd.models.load import ModelSource
from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StudentSpec, Wish

VOCAB, TOP_K, LENGTH = 320, 8, 16
MICRO_BATCHES = 2
SMALL = 4 * 1024
"""What a step itself needs: ids, sums, norms; far below every part that is counted."""


def job_of(case: dict[str, Any], ranks: int) -> Job:
    """A job whose step has two micro-batches on each rank."""
    return Job.model_validate(
        {
            "name": "held",
            "storage_path": "runs",
            "data": {"corpus": {"source": "none"}},
            "teacher": {"model": "none", "device": "cpu"},
            "student": {
                "init": {"start": "pretrained", "model": "none"},
                "device": "cpu",
                "num_workers": ranks,
                **case,
            },
            "train": {"global_batch": MICRO_BATCHES * ranks, "micro_batch": 1},
            "soft_targets": {"top_k": TOP_K},
        }
    )


def held_bytes() -> dict[str, int]:
    """Bytes of all tensors there are, by dtype, each storage once."""
    gc.collect()
    storages: dict[int, tuple[str, int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when they are looked at
        for one in gc.get_objects():
            if type(one) not in (torch.Tensor, torch.nn.Parameter):
                continue
            # A gradient that Python has not asked for yet is not among the objects.
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = (str(tensor.dtype)[6:], storage.nbytes())
    found: dict[str, int] = {}
    for dtype, size in storages.values():
        found[dtype] = found.get(dtype, 0) + size
    return found


def less(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What has come since."""
    return {name: size - before.get(name, 0) for name, size in now.items()}


def measure(model: Path, case: dict[str, Any], rank: int, ranks: int) -> dict[str, dict[str, int]]:
    """What a student holds between two micro-batches of its second step, and after the step."""
    before = held_bytes()
    job = job_of(case, ranks)
    spec = spec_of(VOCAB, TOP_K, (1.0,))
    student = ZeroStudent(StudentSpec(job, ModelSource(str(model)), 3, spec, spec))
    rows, _ = make_scored(_rows(job.train.global_batch), VOCAB, TOP_K, (1.0,), seed=0)
    mine = rows.slice(rank * MICRO_BATCHES, MICRO_BATCHES)
    student.train_step(mine, 0, 0.0, Wish.GO_ON)
    engine, found = student._engine, []
    step = engine.step

    def looking() -> None:
        found.append(less(held_bytes(), before))
        step()

    engine.step = looking
    student.train_step(mine, 1, 0.0, Wish.GO_ON)
    engine.step = step
    after = less(held_bytes(), before)
    return {"between": found[0], "before step": found[1], "after": after}


def _rows(count: int) -> pa.Table:
    draw = random.Random(0)
    return pa.table(
        {
            "input_ids": [[draw.randrange(5, VOCAB) for _ in range(LENGTH)] for _ in range(count)],
            "position_ids": [list(range(LENGTH))] * count,
            "loss_mask": [[1] * (LENGTH - 1) + [0]] * count,
        },
        schema=schema.PREPARED,
    )


def main(model: str, rank: int, ranks: int, store: str, cases: str, out: str) -> None:
    """Measure every case and write what rank 0 holds."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks
    )
    found = [measure(Path(model), case, rank, ranks) for case in json.loads(cases)]
    if rank == 0:
        Path(out).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
