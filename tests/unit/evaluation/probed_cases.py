"""Rows with a tiny teacher's hidden states, for the tests of the probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from raykd.evaluation.probe_teacher import ProbedRows
from raykd.models.batch import collate
from raykd.models.head import hidden_states, read_head, save_head
from raykd.soft_targets.codec import encode, to_columns
from raykd.soft_targets.spec import CodecSpec

VOCAB = 320
CPU = torch.device("cpu")
SPEC = CodecSpec("hidden", VOCAB, hidden_size=32, hidden_values="fp32")


def make_probed(
    make_llama: Callable[..., Any], packed_rows: Callable[..., Any], directory: Path
) -> tuple[ProbedRows, torch.Tensor]:
    """The rows, and the teacher's dense log probabilities [M, V]; its head lies in `directory`."""
    teacher = make_llama(1, num_hidden_layers=3)
    rows = packed_rows([[9, 5], [12], [3, 7]])
    encoded, logprobs = [], []
    with torch.no_grad():
        for i in range(rows.num_rows):
            batch = collate(rows.slice(i, 1))
            hidden = hidden_states(teacher, batch.input_ids_BT, batch.position_ids_BT)
            kept = hidden.flatten(0, 1)[batch.keep_M]
            encoded.append(encode(kept, None, None, SPEC))
            logprobs.append(teacher.lm_head(kept).double().log_softmax(1))
    columns = to_columns(encoded, SPEC)
    table = pa.table([*rows.columns, *columns.values()], names=[*rows.column_names, *columns])
    save_head(teacher, directory / "head.safetensors", write=True)
    head = read_head(directory / "head.safetensors", VOCAB, CPU)
    return ProbedRows(table, SPEC, head), torch.cat(logprobs)
