"""Measure a classifier on held-out rows: against its teacher, and against what is known of them.

Shapes: P learned positions of a set, C outputs, W gold values a position.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.model import Device, Dtype
from raykd.evaluation.encoder_runs import loaded, place_of, service_tokens_per_s
from raykd.evaluation.label_metrics import agreement, gold_metrics
from raykd.evaluation.report_data import ModelFacts, ModelScores
from raykd.models.batch import collate
from raykd.models.encoder import EncoderSpec, Projection, encoder_outputs
from raykd.models.load import ModelSource
from raykd.models.sentence import projection_of
from raykd.soft_targets.codec import HiddenStates, decode
from raykd.soft_targets.spec import CodecSpec

MICRO_BATCH_TOKENS = 4096
GOLD = "gold"
"""The column of a set's gold values."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MeasuredRows:
    """A set, with what teacher and gold labels say of it.

    Attributes:
        table: Its rows.
        spec: The task.
        teacher_PC: The teacher's outputs; None where nobody asked it.
        gold_PW: NaN where unknown; None where nothing is known.
    """

    table: pa.Table
    spec: EncoderSpec
    teacher_PC: Floats | None
    gold_PW: Floats | None

    @property
    def num_positions(self) -> int:
        """P."""
        return int(pc.sum(pc.list_flatten(self.table.column("loss_mask"))).as_py() or 0)


def read_rows(table: pa.Table, spec: EncoderSpec, asked: CodecSpec | None) -> MeasuredRows:
    """Take teacher and gold out of a set's columns.

    Args:
        table: Rows; with the teacher's outputs where it was asked, and gold values where there are.
        spec: The task.
        asked: The form of the outputs; None where nobody was asked.
    """
    teacher = gold = None
    if asked is not None:
        found = decode(table, asked)
        assert isinstance(found, HiddenStates), "a classifier's outputs travel as vectors"
        width = spec.num_outputs if spec.with_hidden else found.hidden_TD.shape[1]
        teacher = found.hidden_TD[:, :width].double().numpy()
    if GOLD in table.column_names:
        values = pc.list_flatten(table.column(GOLD)).to_numpy().astype(np.float64)
        num = pc.sum(pc.list_flatten(table.column("loss_mask"))).as_py() or 0
        gold = values.reshape(num, -1)
    return MeasuredRows(table, spec, teacher, gold)


def teacher_scores(rows: MeasuredRows) -> ModelScores | None:
    """What the teacher's own outputs are worth; None where nobody asked it."""
    if rows.teacher_PC is None:
        return None
    return ModelScores(
        tokens_per_s=service_tokens_per_s(rows.table),
        metrics=gold_metrics(rows.spec.task, rows.teacher_PC, rows.gold_PW),
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
    through = projection_of(source, spec, dtype, place)
    with loaded(name, source, spec, dtype, place) as (model, facts):
        return facts, {
            key: scores_of(rows, *outputs_of(model, through, rows, place))
            for key, rows in sets.items()
        }


def scores_of(rows: MeasuredRows, outputs_PC: Floats, tokens_per_s: float | None) -> ModelScores:
    """What a model's outputs on all rows are worth."""
    metrics = gold_metrics(rows.spec.task, outputs_PC, rows.gold_PW)
    kl = agreed = None
    # A student that has not learned its projection yet has vectors of another width.
    if rows.teacher_PC is not None and rows.teacher_PC.shape[1] == outputs_PC.shape[1]:
        kl, agreed, more = agreement(rows.spec.task, outputs_PC, rows.teacher_PC)
        metrics |= more
    return ModelScores(
        kl_to_teacher=kl, top1_agreement=agreed, tokens_per_s=tokens_per_s, metrics=metrics
    )


@torch.inference_mode()
def outputs_of(
    model: torch.nn.Module,
    through: Projection | None,
    rows: MeasuredRows,
    device: torch.device,
) -> tuple[Floats, float | None]:
    """The model's outputs on all rows, and its rate."""
    outputs, seen, seconds = [], 0, 0.0
    lengths = pc.list_value_length(rows.table.column("input_ids")).to_numpy()
    size = max(1, MICRO_BATCH_TOKENS // max(1, int(lengths.max(initial=1))))
    for at in range(0, rows.table.num_rows, size):
        batch = collate(rows.table.slice(at, size)).to(device)
        started = time.perf_counter()
        found = encoder_outputs(model, batch, rows.spec, through).outputs_MC
        outputs.append(found.double().cpu().numpy())
        # The first pass warms up and is not timed, unless it is the only one.
        if at > 0 or rows.table.num_rows <= size:
            seconds += time.perf_counter() - started
            seen += batch.input_ids_BT.numel()
    return np.concatenate(outputs), seen / seconds if seconds > 0 else None
