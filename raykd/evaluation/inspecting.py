"""Teacher, untrained and student on the same rows, one model in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import torch

from raykd.config.model import Device, Dtype
from raykd.errors import ModelError
from raykd.evaluation.costs import costs_of, prompts_of
from raykd.evaluation.harness import Harness, run_tasks
from raykd.evaluation.inspection_data import BatchCost, WorstRow
from raykd.evaluation.pieces import pieces_of
from raykd.evaluation.report_data import STUDENT, TEACHER, ModelFacts
from raykd.evaluation.token_scores import TokenScores, model_tokens, teacher_tokens
from raykd.evaluation.worst_rows import Spot, Text, goes_on, next_tokens, told, worst_spots
from raykd.models.load import ModelSource, load_model
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOT_TIMED: Final = (
    "the teacher could not be loaded whole where students are measured, so it was not timed: "
)


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    role: str
    source: ModelSource
    dtype: Dtype


@dataclass(frozen=True)
class Task:
    """What models are measured on.

    Attributes:
        rows: `schema.PREPARED`, one document or piece a row, with targets if `scored`.
        scored: Whether a teacher has scored them.
        spec: Codec `top_k` at temperature 1; its vocabulary is the one both sides share.
        places: Of each row, where it stands.
        device: To run on.
        batch: The larger batch that models are timed at; 0 times none.
        text: Turns ids into text; None leaves every text out.
        harness: Tasks of `lm-eval`; None is none.
        tokenizer: Both sides'.
    """

    rows: pa.Table
    scored: bool
    spec: CodecSpec
    places: Sequence[str]
    device: Device
    batch: int
    text: Text | None
    harness: Harness | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


@dataclass
class Seen:
    """What was measured, by role."""

    facts: dict[str, ModelFacts] = field(default_factory=dict)
    tokens: dict[str, TokenScores] = field(default_factory=dict)
    costs: dict[str, list[BatchCost]] = field(default_factory=dict)
    worst: list[WorstRow] = field(default_factory=list)
    tasks: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _OfStudent:
    spot: Spot
    following: list[tuple[int, float]]
    wrote: list[int]


def measure(task: Task, students: Sequence[Subject], bare_teacher: Subject | None) -> Seen:
    """Run the students over all rows; time all models; look at the worst rows.

    Args:
        task: What on.
        students: Role `student` among them.
        bare_teacher: The teacher, if it can be loaded here beside its service: only timed, and
            asked how it goes on at the worst rows.
    """
    seen = Seen()
    if task.scored:
        seen.tokens[TEACHER] = teacher_tokens(task.rows, task.spec)
    at_worst: list[_OfStudent] = []
    for subject in students:
        with _loaded(subject, task.device) as model:
            seen.facts[subject.role] = facts_of(model, subject)
            seen.tokens[subject.role] = model_tokens(
                model, task.rows, task.spec, has_targets=task.scored
            )
            _time(model, subject.role, task, seen)
            _run_tasks(model, subject.role, task, seen)
            if subject.role == STUDENT and task.scored:
                spots = worst_spots(seen.tokens[STUDENT], task.rows, task.spec)
                at_worst = [_at(model, spot, task.spec.vocab_size) for spot in spots]
    by_teacher = _ask_teacher(task, bare_teacher, [one.spot for one in at_worst], seen)
    seen.worst = [
        told(one.spot, task.places[one.spot.row], one.following, theirs, one.wrote, task.text)
        for one, theirs in zip(at_worst, by_teacher, strict=True)
    ]
    return seen


def _at(model: PreTrainedModel, spot: Spot, vocab_size: int) -> _OfStudent:
    return _OfStudent(spot, next_tokens(model, spot, vocab_size), goes_on(model, spot, vocab_size))


def _ask_teacher(
    task: Task, teacher: Subject | None, spots: Sequence[Spot], seen: Seen
) -> list[list[int] | None]:
    """Time the bare teacher and let it write; a teacher that cannot be loaded is a note."""
    if teacher is None:
        return [None for _ in spots]
    try:
        with _loaded(teacher, task.device) as model:
            _time(model, teacher.role, task, seen)
            _run_tasks(model, teacher.role, task, seen)
            return [goes_on(model, spot, task.spec.vocab_size) for spot in spots]
    except (ModelError, torch.OutOfMemoryError) as error:
        seen.notes.append(NOT_TIMED + str(error).splitlines()[0])
        return [None for _ in spots]


def _time(model: PreTrainedModel, role: str, task: Task, seen: Seen) -> None:
    if not task.batch:
        return
    pieces = pieces_of(task.rows)
    seen.costs[role] = costs_of(model, prompts_of(pieces.ids, task.batch), task.spec.vocab_size)


def _run_tasks(model: PreTrainedModel, role: str, task: Task, seen: Seen) -> None:
    if task.harness is not None:
        assert task.tokenizer is not None
        seen.tasks[role] = run_tasks(model, task.tokenizer, task.harness, task.batch or 1)


@contextmanager
def _loaded(subject: Subject, device: Device) -> Iterator[PreTrainedModel]:
    """A model in evaluation mode; its memory is free again afterwards."""
    place = torch.device("cuda" if device == "gpu" else "cpu")
    model = load_model(subject.source, subject.dtype, subject.role)
    try:
        yield model.to(place).eval()  # type: ignore[arg-type]
    finally:
        del model
        gc.collect()
        if device == "gpu":
            torch.cuda.empty_cache()


def facts_of(model: PreTrainedModel, subject: Subject) -> ModelFacts:
    """A loaded model's size."""
    return ModelFacts(
        name=subject.source.path,
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        dtype=subject.dtype,
    )
