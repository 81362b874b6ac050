"""Compare codecs on real rows: what each costs, and how true its gradient is.

The teacher's last hidden states and its head are at hand, so every codec is made from the same
logits. M learned tokens, T of them at a time, D hidden size of the student, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raykd.evaluation.probe_candidates import Candidate
from raykd.evaluation.probe_data import CodecFound
from raykd.evaluation.probe_student import StudentHead, shape_of
from raykd.evaluation.probe_teacher import ProbedRows, hidden_of, teacher_logits
from raykd.losses.spec import LossSpec
from raykd.losses.targets import HiddenTargets, Targets, TeacherHead
from raykd.models.batch import Batch, collate, flat
from raykd.models.head import hidden_states
from raykd.soft_targets.codec import Encoded, encode, to_columns, token_keys
from raykd.soft_targets.parquet import parquet_options
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(eq=False)
class _Trial:
    """A candidate while it is measured."""

    candidate: Candidate
    encode_s: float = 0.0
    decode_s: float = 0.0
    tables: list[pa.Table] = field(default_factory=list)
    loss: float = 0.0
    dot: float = 0.0
    square: float = 0.0
    refused: str | None = None


@dataclass(eq=False)
class _Full:
    """The reference: every logit."""

    tokens: int = 0
    loss: float = 0.0
    square: float = 0.0
    trials: list[_Trial] = field(default_factory=list)


def compare_codecs(
    probed: ProbedRows,
    student: PreTrainedModel,
    loss: LossSpec,
    tried: Sequence[Candidate],
    most_tokens: int,
    to_targets: Any,
    refused: dict[str, str],
) -> tuple[int, float, list[CodecFound]]:
    """Measure every candidate on the first rows.

    Args:
        probed: Rows with the teacher's word on them.
        student: With its first weights.
        loss: The job's; cross-entropy plays no part.
        tried: What to compare.
        most_tokens: Learned tokens to compare on; at least one row is taken.
        to_targets: (table, spec, head) to what the loss looks at, as the student decodes it.
        refused: Codecs that cannot serve the loss, with the reason; only their cost is measured.

    Returns:
        Tokens compared on, the divergence from `full` in nats a token, and what was found.
    """
    full = _Full(trials=[_Trial(one, refused=refused.get(one.spec.codec)) for one in tried])
    student_head = StudentHead.of(student, probed.spec.vocab_size)
    for at in range(probed.rows.num_rows):
        if full.tokens >= most_tokens and at > 0:
            break
        row = probed.rows.slice(at, 1)
        _compare_row(full, probed, row, student, student_head, loss, to_targets)
    return full.tokens, full.loss / full.tokens, [_found(one, full) for one in full.trials]


def _compare_row(
    full: _Full,
    probed: ProbedRows,
    row: pa.Table,
    student: PreTrainedModel,
    student_head: StudentHead,
    loss: LossSpec,
    to_targets: Any,
) -> None:
    device = probed.head.weight_VD.device
    batch = collate(row).to(device)
    if not len(batch.keep_M):
        return
    with torch.no_grad():
        hidden_BTD = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
        own_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M).float()
    head = TeacherHead(probed.head.weight_VD, probed.head.bias_V, shape_of(probed.head.after))
    reference = HiddenTargets(hidden_of(probed, row), head)
    value, gradient_MD = student_head.gradient(own_MD, batch, reference, loss)
    full.tokens += len(batch.keep_M)
    full.loss += value
    full.square += float((gradient_MD.double() ** 2).sum())
    _travel(full.trials, probed, row, batch)
    for trial in full.trials:
        started = time.process_time()
        targets: Targets = to_targets(trial.tables[-1], trial.candidate.spec, head)
        trial.decode_s += time.process_time() - started
        if trial.refused is not None:
            continue
        value, other_MD = student_head.gradient(own_MD, batch, targets, loss)
        trial.loss += value
        trial.dot += float((gradient_MD.double() * other_MD.double()).sum())
        trial.square += float((other_MD.double() ** 2).sum())


def _travel(trials: Sequence[_Trial], probed: ProbedRows, row: pa.Table, batch: Batch) -> None:
    """Encode a row by every codec, as the teacher would, and lay it into columns.

    Each chunk of the teacher's logits is made once, for all codecs.
    """
    ids, _ = flat(row, "input_ids")
    hidden_MD = hidden_of(probed, row)
    seed = probed.spec.seed
    keys_M = token_keys([ids], [len(batch.keep_M)], seed).to(batch.keep_M.device)
    parts: list[list[Encoded]] = [[] for _ in trials]
    for piece, logits_TV in teacher_logits(probed, row):
        for trial, mine in zip(trials, parts, strict=True):
            spec = trial.candidate.spec
            source = hidden_MD[piece] if spec.source == "hidden" else logits_TV
            started = time.process_time()
            mine.append(encode(source, batch.label_ids_M[piece], keys_M[piece], spec).cpu())
            trial.encode_s += time.process_time() - started
    for trial, mine in zip(trials, parts, strict=True):
        started = time.process_time()
        columns = to_columns([Encoded.concatenate(mine)], trial.candidate.spec)
        trial.encode_s += time.process_time() - started
        trial.tables.append(pa.table(columns))


def _found(trial: _Trial, full: _Full) -> CodecFound:
    tokens = full.tokens
    measured = trial.refused is None
    scale = (full.square * trial.square) ** 0.5
    table = pa.concat_tables(trial.tables)
    return CodecFound(
        label=trial.candidate.label,
        settings=trial.candidate.settings,
        wire_bytes=table.nbytes / tokens,
        rest_bytes=_parquet_bytes(table, trial.candidate.spec) / tokens,
        loss_gap=(trial.loss - full.loss) / tokens if measured else float("nan"),
        cosine=trial.dot / scale if measured and scale > 0 else float("nan"),
        bias=trial.dot / full.square - 1.0 if measured and full.square > 0 else float("nan"),
        encode_tokens_per_s=tokens / max(1e-9, trial.encode_s),
        decode_tokens_per_s=tokens / max(1e-9, trial.decode_s),
        refused=trial.refused,
    )


def _parquet_bytes(table: pa.Table, spec: CodecSpec) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_options(spec))
    return int(sink.getvalue().size)
