"""Measure a masked language model on held-out rows: against their text, and against its teacher.

Shapes: M masked tokens of a batch, V vocabulary ids, K ids kept.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.model import Device, Dtype
from raykd.evaluation.classify import MICRO_BATCH_TOKENS
from raykd.evaluation.encoder_runs import loaded, place_of, service_tokens_per_s
from raykd.evaluation.report_data import ModelFacts, ModelScores
from raykd.losses.heldout import HeldoutSums, heldout_sums
from raykd.losses.targets import BucketTargets
from raykd.models.encoder import EncoderSpec, encoder_outputs
from raykd.models.load import ModelSource
from raykd.models.masking import batch_of
from raykd.soft_targets.codec import TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec


@dataclass(frozen=True, eq=False)
class MeasuredRows:
    """A set, with what the teacher says of it.

    Attributes:
        table: Its rows.
        spec: The task.
        teacher: Of all masked tokens, ids likeliest first; None where nobody asked it.
    """

    table: pa.Table
    spec: EncoderSpec
    teacher: TopKTargets | None

    @property
    def num_positions(self) -> int:
        """Masked tokens of all rows."""
        return int(pc.sum(pc.list_flatten(self.table.column("loss_mask"))).as_py() or 0)


def read_rows(table: pa.Table, spec: EncoderSpec, asked: CodecSpec | None) -> MeasuredRows:
    """Take the teacher out of a set's columns.

    Args:
        table: Rows; with the teacher's targets where it was asked.
        spec: The task.
        asked: The form of the targets, codec `top_k`; None where nobody was asked.
    """
    if asked is None:
        return MeasuredRows(table, spec, None)
    found = decode(table, asked)
    assert isinstance(found, TopKTargets), "held-out rows are scored with codec top_k"
    return MeasuredRows(table, spec, found)


def teacher_scores(rows: MeasuredRows) -> ModelScores | None:
    """What the teacher makes of the text itself; None where nobody asked it."""
    if rows.teacher is None:
        return None
    labels_M = batch_of(rows.table, rows.spec.masking).label_ids_M
    right = (rows.teacher.ids_TK[:, 0] == labels_M).sum()
    nll = -rows.teacher.label_logprobs_T.double().sum()
    return ModelScores(
        tokens_per_s=service_tokens_per_s(rows.table),
        **_figures(float(nll), float(right), rows.num_positions),
    )


def measure_model(
    name: str,
    source: ModelSource,
    sets: dict[str, MeasuredRows],
    spec: EncoderSpec,
    dtype: Dtype,
    device: Device,
) -> tuple[ModelFacts, dict[str, ModelScores]]:
    """Load a model, run it over every set, let it go again.

    Args:
        name: For the report.
        source: A Hugging Face directory.
        sets: Rows by the set's name.
        spec: The task.
        dtype: To run it in.
        device: To run it on.
    """
    place = place_of(device)
    with loaded(name, source, spec, dtype, place) as (model, facts):
        return facts, {key: _measure_set(model, rows, place) for key, rows in sets.items()}


@torch.inference_mode()
def _measure_set(model: torch.nn.Module, rows: MeasuredRows, device: torch.device) -> ModelScores:
    sums, right, seen, seconds, done = HeldoutSums(), 0.0, 0, 0.0, 0
    lengths = pc.list_value_length(rows.table.column("input_ids")).to_numpy()
    size = max(1, MICRO_BATCH_TOKENS // max(1, int(lengths.max(initial=1))))
    for at in range(0, rows.table.num_rows, size):
        batch = batch_of(rows.table.slice(at, size), rows.spec.masking).to(device)
        started = time.perf_counter()
        logits_MV = encoder_outputs(model, batch, rows.spec).outputs_MC
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # The first pass warms up and is not timed, unless it is the only one.
        if at > 0 or rows.table.num_rows <= size:
            seconds += time.perf_counter() - started
            seen += batch.input_ids_BT.numel()
        targets = _buckets(rows.teacher, slice(done, done + len(logits_MV)), device)
        done += len(logits_MV)
        sums += heldout_sums(logits_MV, batch.label_ids_M, targets)
        right += float((logits_MV.argmax(1) == batch.label_ids_M).sum())
    asked = rows.teacher is not None and sums.tokens > 0
    return ModelScores(
        kl_to_teacher=sums.kl / sums.tokens if asked else None,
        top1_agreement=sums.agreed / sums.tokens if asked else None,
        tokens_per_s=seen / seconds if seconds > 0 else None,
        **_figures(sums.cross_entropy, right, rows.num_positions),
    )


def _buckets(
    teacher: TopKTargets | None, tokens: slice, device: torch.device
) -> BucketTargets | None:
    if teacher is None:
        return None
    kept = (teacher.ids_TK, teacher.logprobs_TK, teacher.log_tail_TN[:, 0])
    return BucketTargets(*(tensor[tokens].to(device) for tensor in kept))


def _figures(nll: float, right: float, num: int) -> dict[str, Any]:
    """Perplexity and accuracy of `num` masked tokens."""
    if num == 0:
        return {}
    perplexity = math.exp(min(nll / num, 700.0))
    return {
        "perplexity": perplexity,
        "metrics": {"accuracy": right / num, "perplexity": perplexity},
    }
