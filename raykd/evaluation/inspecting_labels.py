"""A classifier's teacher, untrained and student on the same rows, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from raykd.config.model import Device
from raykd.errors import ModelError
from raykd.evaluation.classify import MeasuredRows, outputs_of, scores_of, teacher_scores
from raykd.evaluation.costs import prompts_of
from raykd.evaluation.encoder_runs import loaded, place_of
from raykd.evaluation.inspecting import NOT_TIMED, Subject, facts_of
from raykd.evaluation.inspection_data import BatchCost
from raykd.evaluation.label_costs import label_costs
from raykd.evaluation.label_scores import LabelScores, label_scores
from raykd.evaluation.pieces import pieces_of
from raykd.evaluation.report_data import TEACHER, ModelFacts, ModelScores
from raykd.models.encoder import EncoderSpec, Projection
from raykd.models.sentence import projection_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class SeenLabels:
    """What was measured, by role."""

    facts: dict[str, ModelFacts] = field(default_factory=dict)
    scores: dict[str, ModelScores] = field(default_factory=dict)
    labels: dict[str, LabelScores] = field(default_factory=dict)
    costs: dict[str, list[BatchCost]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure_labels(
    rows: MeasuredRows,
    students: Sequence[Subject],
    bare_teacher: Subject | None,
    device: Device,
    batch: int,
) -> SeenLabels:
    """Run the students over all rows; time all models.

    Args:
        rows: The set, with what teacher and gold labels say of it.
        students: The models to measure.
        bare_teacher: The teacher, to be timed without its service; None times none.
        device: To run on.
        batch: The larger batch that models are timed at; 0 times none.
    """
    seen, texts_BP = SeenLabels(), _texts(rows, batch) if batch else None
    if rows.teacher_PC is not None and (of_teacher := teacher_scores(rows)) is not None:
        seen.scores[TEACHER] = of_teacher
        seen.labels[TEACHER] = label_scores(rows, rows.teacher_PC)
    for subject in students:
        with _loaded(subject, rows.spec, device) as (model, through):
            seen.facts[subject.role] = facts_of(model, subject)
            outputs_PC, rate = outputs_of(model, through, rows, next(model.parameters()).device)
            seen.scores[subject.role] = scores_of(rows, outputs_PC, rate)
            seen.labels[subject.role] = label_scores(rows, outputs_PC)
            if texts_BP is not None:
                seen.costs[subject.role] = label_costs(model, through, texts_BP, rows.spec)
    if bare_teacher is not None and texts_BP is not None:
        _time_teacher(bare_teacher, rows.spec, device, texts_BP, seen)
    return seen


def _time_teacher(
    teacher: Subject, spec: EncoderSpec, device: Device, texts_BP: torch.Tensor, seen: SeenLabels
) -> None:
    """A teacher that cannot be loaded is a note."""
    try:
        with _loaded(teacher, spec, device) as (model, through):
            seen.costs[TEACHER] = label_costs(model, through, texts_BP, spec)
    except (ModelError, torch.OutOfMemoryError) as error:
        seen.notes.append(NOT_TIMED + str(error).splitlines()[0])


def _texts(rows: MeasuredRows, num: int) -> torch.Tensor:
    """Texts of one length, that of the median row."""
    pieces = pieces_of(rows.table)
    ids = pieces.ids
    return prompts_of(ids, num, longest_tokens=max(map(len, ids)))


@contextmanager
def _loaded(
    subject: Subject, spec: EncoderSpec, device: Device
) -> Iterator[tuple[PreTrainedModel, Projection | None]]:
    """A model in evaluation mode, and what its vectors go through; free again afterwards."""
    place = place_of(device)
    with loaded(subject.role, subject.source, spec, subject.dtype, place) as (model, _):
        yield model, projection_of(subject.source, spec, subject.dtype, place)
