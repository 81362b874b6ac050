"""One shard of a tensor-parallel teacher: run by a test as a process of its own.

Arguments: model directory, rank of two, port, rows file, output file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import torch

from raykd.models.batch import collate
from raykd.models.head import head_logits, hidden_states
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

STATES = CodecSpec(
    "states",
    320,
    hidden_size=32,
    state_layers=(1, 3),
    attention_layer=3,
    attention_widths=(("query", 32), ("key", 16), ("value", 16)),
)


def main(model: str, rank: int, port: int, rows_file: str, out: str) -> None:
    with pa.memory_map(rows_file) as source:
        rows = pa.ipc.open_file(source).read_all()
    spec = EngineSpec(ModelSource(model), "fp32", False, 1, 64, 8)
    engine = TransformersEngine(spec, ShardPlace(rank, 2, "127.0.0.1", port))
    batch = collate(rows)
    with torch.inference_mode():
        hidden = hidden_states(engine._model, batch.input_ids_BT, batch.position_ids_BT)
        logits = head_logits(engine._model, hidden.flatten(0, 1))
    scored = engine.score(
        rows, CodecSpec("top_k", logits.shape[1], (1.0, 2.0), top_k=5, values="fp32")
    )
    assert (scored is None) == (rank != 0)
    inner = engine.represent(rows, STATES, None)
    assert (inner is None) == (rank != 0)
    engine.write_head(Path(out).with_name("head.safetensors"))
    local = sum(
        p.to_local().numel() if hasattr(p, "to_local") else p.numel()
        for p in engine._model.parameters()
    )
    if rank == 0:
        torch.save(
            {
                "logits": logits,
                "columns": {name: scored.column(name).to_pylist() for name in scored.column_names},
                "described": engine.describe(),
                "local": local,
                "inner": {name: inner.column(name).to_pylist() for name in inner.column_names},
            },
            out,
        )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:])
