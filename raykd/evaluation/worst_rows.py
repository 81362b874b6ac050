"""The rows where a student is farthest from its teacher, at the token where it is.

R rows, P tokens of what was read, V vocabulary, K ids kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raykd.evaluation.costs import write_greedily
from raykd.evaluation.inspection_data import NextToken, WorstRow
from raykd.evaluation.token_scores import TokenScores, row_means
from raykd.models.batch import flat
from raykd.models.head import head_logits, hidden_states
from raykd.soft_targets.codec import TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_ROWS: Final = 10
FEWEST_TOKENS: Final = 4
"""Rows with fewer learned tokens are no example of anything."""
NUM_NEXT: Final = 3
GOES_ON_TOKENS: Final = 12
EXCERPT_CHARACTERS: Final = 280

Text = Callable[[Sequence[int]], str]
"""Token ids as text."""


@dataclass(frozen=True)
class Spot:
    """A token of a row where a student is far from its teacher.

    Attributes:
        row: The row.
        kl_row: Mean over the row, nats a token.
        kl_there: At the token, nats.
        tokens: Learned tokens of the row.
        read: What stands before it.
        follows: The token that really comes.
        teacher_ids: Likeliest first.
        teacher_probabilities: Of these.
    """

    row: int
    kl_row: float
    kl_there: float
    tokens: int
    read: list[int]
    follows: int
    teacher_ids: list[int]
    teacher_probabilities: list[float]


def worst_spots(student: TokenScores, rows: pa.Table, spec: CodecSpec) -> list[Spot]:
    """The rows of the largest mean divergence, largest first.

    Args:
        student: Its tokens on `rows`, with divergences.
        rows: With targets, one document or piece a row.
        spec: Of the targets.
    """
    assert student.kl_T is not None, "rows with targets"
    counts = np.bincount(student.row_T, minlength=rows.num_rows)
    means = row_means(student.kl_T, student.row_T, rows.num_rows)
    means[counts < min(FEWEST_TOKENS, counts.max(initial=0))] = np.nan
    order = np.argsort(-means, kind="stable")
    chosen = [int(row) for row in order[:NUM_ROWS] if not math.isnan(means[row])]
    return [_spot(row, means[row], student, rows, spec) for row in chosen]


def _spot(row: int, kl_row: float, student: TokenScores, rows: pa.Table, spec: CodecSpec) -> Spot:
    assert student.kl_T is not None
    kl = student.kl_T[student.row_T == row]
    token = int(np.argmax(kl))
    one = rows.slice(row, 1)
    ids, _ = flat(one, "input_ids")
    mask, _ = flat(one, "loss_mask")
    place = int(np.flatnonzero(mask)[token])
    targets = decode(one, spec)
    assert isinstance(targets, TopKTargets)
    return Spot(
        row=row,
        kl_row=float(kl_row),
        kl_there=float(kl[token]),
        tokens=len(kl),
        read=_own_document(one, ids, place),
        follows=int(ids[place + 1]),
        teacher_ids=targets.ids_TK[token, :NUM_NEXT].tolist(),
        teacher_probabilities=targets.logprobs_TK[token, :NUM_NEXT].double().exp().tolist(),
    )


def _own_document(row: pa.Table, ids: npt.NDArray[np.int32], place: int) -> list[int]:
    """From the document's first token to the one at `place`."""
    positions, _ = flat(row, "position_ids")
    return [int(i) for i in ids[place - int(positions[place]) : place + 1]]


@torch.inference_mode()
def next_tokens(model: PreTrainedModel, spot: Spot, vocab_size: int) -> list[tuple[int, float]]:
    """A model's likeliest ids at a spot, with their probabilities."""
    device = next(model.parameters()).device
    read_1P = torch.tensor([spot.read], dtype=torch.int64, device=device)
    positions_1P = torch.arange(read_1P.shape[1], device=device)[None]
    hidden = hidden_states(model, read_1P, positions_1P)[:, -1]
    top = head_logits(model, hidden, vocab_size)[0].float().softmax(0).topk(NUM_NEXT)
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def goes_on(model: PreTrainedModel, spot: Spot, vocab_size: int) -> list[int]:
    """What a model writes at a spot, always its likeliest token."""
    device = next(model.parameters()).device
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = GOES_ON_TOKENS if context is None else min(GOES_ON_TOKENS, context - len(spot.read))
    if room < 1:
        return []
    read_1P = torch.tensor([spot.read], dtype=torch.int64, device=device)
    written: list[int] = write_greedily(model, read_1P, room, vocab_size)[0].tolist()
    return written


def told(
    spot: Spot,
    place: str,
    student: Sequence[tuple[int, float]],
    teacher_wrote: Sequence[int] | None,
    student_wrote: Sequence[int],
    text: Text | None,
) -> WorstRow:
    """A spot for people.

    Args:
        spot: The spot.
        place: Where the row stands in its file.
        student: What `next_tokens` says of the student.
        teacher_wrote: What `goes_on` says of the teacher; None where it was not loaded.
        student_wrote: The same of the student.
        text: Turns ids into text; None leaves every text out.
    """
    figures = WorstRow(
        place=place, tokens=spot.tokens, kl_to_teacher=spot.kl_row, kl_there=spot.kl_there
    )
    if text is None:
        return figures
    theirs = zip(spot.teacher_ids, spot.teacher_probabilities, strict=True)
    return figures.model_copy(
        update={
            "before": text(spot.read)[-EXCERPT_CHARACTERS:],
            "follows": text([spot.follows]),
            "teacher_next": [NextToken(text=text([i]), probability=p) for i, p in theirs],
            "student_next": [NextToken(text=text([i]), probability=p) for i, p in student],
            "teacher_goes_on": None if teacher_wrote is None else text(teacher_wrote),
            "student_goes_on": text(student_wrote),
        }
    )
