"""One shard of a tensor-parallel teacher that writes: run by a test as a process of its own.

Arguments: model directory, rank of two, port, output directory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import torch

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.models.load import ModelSource
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

TEXTS = ["The river moves.", "A", "Old stone under the small green wind and", "no light", "the"]


def main(model: str, rank: int, port: int, out: Path) -> None:
    spec = EngineSpec(ModelSource(model), "fp32", False, 1, 1000, 64)
    engine = TransformersEngine(spec, ShardPlace(rank, 2, "127.0.0.1", port))
    prompts = pa.Table.from_pylist(
        [
            {"prompt": i, "sample": 0, "seed": 7000 + i, "messages": None, "text": text}
            for i, text in enumerate(TEXTS)
        ],
        schema=schema.PROMPTS,
    )
    for name, sampling in (
        ("greedy", SamplingConfig(max_new_tokens=8)),
        ("drawn", SamplingConfig(max_new_tokens=12, temperature=0.9, top_p=0.95, top_k=40)),
    ):
        told = engine.generate(prompts, sampling)
        assert (told is None) == (rank != 0)
        if told is not None:
            file = str(out / f"{name}.arrow")
            with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, told.schema) as writer:
                writer.write_table(told)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
