"""What a model says about every learned token of a set of rows, kept token by token.

B rows of a batch, T learned tokens of all rows, M of one batch, R of one block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.evaluation.calibration import calibration_of
from raykd.evaluation.inspection_data import Calibration
from raykd.losses.block_loss import Share, block_loss_
from raykd.losses.blocks import arithmetic_dtype, row_blocks
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets
from raykd.models.batch import collate, flat
from raykd.models.head import head_logits, hidden_states
from raykd.soft_targets.codec import TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORWARD_KL: Final = LossSpec((("forward_kl", 1.0),))
MICRO_BATCH_TOKENS: Final = 2048

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TokenScores:
    """One model on T tokens, row after row.

    Attributes:
        row_T: The row that a token stands in.
        nll_T: Nats, of the token that really follows.
        confidence_T: Probability of the likeliest id.
        correct_T: Whether that id follows.
        kl_T: Nats, of the teacher's distribution from the model's; None without a teacher.
        agreed_T: Whether both have the same likeliest id; None without a teacher.
    """

    row_T: npt.NDArray[np.int64]
    nll_T: Floats
    confidence_T: Floats
    correct_T: Flags
    kl_T: Floats | None = None
    agreed_T: Flags | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.row_T)

    @property
    def calibration(self) -> Calibration:
        """Over all tokens."""
        return calibration_of(self.confidence_T, self.correct_T)

    def where(self, chosen_T: Flags | npt.NDArray[np.int64]) -> TokenScores:
        """The same of some tokens: where a flag is set, or in the order of numbers."""
        values: list[Any] = [getattr(self, field.name) for field in fields(self)]
        kept: list[Any] = [None if value is None else value[chosen_T] for value in values]
        return TokenScores(*kept)


def mean(values_T: npt.NDArray[Any] | None) -> float | None:
    """The mean over tokens; None where there are none."""
    return None if values_T is None or not len(values_T) else float(np.mean(values_T))


def row_means(values_T: Floats, row_T: npt.NDArray[np.int64], num_rows: int) -> Floats:
    """The mean of each row; NaN where a row has no token."""
    sums = np.bincount(row_T, weights=values_T, minlength=num_rows)
    counts = np.bincount(row_T, minlength=num_rows)
    means: Floats = np.divide(sums, counts, out=np.full(num_rows, np.nan), where=counts > 0)
    return means


def tokens_of(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The row of each learned token."""
    mask, offsets = flat(rows, "loss_mask")
    of_row = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
    rows_T: npt.NDArray[np.int64] = of_row[mask.astype(bool)].astype(np.int64)
    return rows_T


def teacher_tokens(rows: pa.Table, spec: CodecSpec) -> TokenScores:
    """What the soft targets say about the teacher itself.

    Args:
        rows: With targets, codec `top_k` at temperature 1.
        spec: Their codec.
    """
    targets = _targets(rows, spec, torch.device("cpu"))
    labels_T = collate(rows).label_ids_M
    return TokenScores(
        row_T=tokens_of(rows),
        nll_T=-targets.label_logprobs_T.double().numpy(),
        confidence_T=targets.logprobs_TK[:, 0].double().exp().numpy(),
        correct_T=(targets.ids_TK[:, 0].long() == labels_T).numpy(),
    )


@torch.inference_mode()
def model_tokens(
    model: PreTrainedModel, rows: pa.Table, spec: CodecSpec, *, has_targets: bool = True
) -> TokenScores:
    """Run a model over rows.

    Args:
        model: In evaluation mode, on the device to use.
        rows: `schema.PREPARED`, with targets at temperature 1 if `has_targets`.
        spec: Their codec, `top_k`; its vocabulary is the one both sides share.
        has_targets: Whether a teacher has scored the rows.
    """
    device = next(model.parameters()).device
    parts: list[TokenScores] = []
    for place, part in _by_length(rows):
        batch = collate(part).to(device)
        hidden_BTD = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
        logits_MV = head_logits(
            model, hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M), spec.vocab_size
        )
        buckets = None
        if has_targets:
            targets = _targets(part, spec, device)
            buckets = BucketTargets(targets.ids_TK, targets.logprobs_TK, targets.log_tail_TN[:, 0])
        measured = _measure(logits_MV, batch.label_ids_M, buckets)
        parts.append(TokenScores(place[tokens_of(part)], *measured))
    return _in_order(parts)


def _measure(
    logits_MV: torch.Tensor, label_ids_M: torch.Tensor, targets: BucketTargets | None
) -> tuple[Floats, Floats, Flags, Floats | None, Flags | None]:
    """In the order of `TokenScores`."""
    dtype = arithmetic_dtype(logits_MV.dtype)
    found: list[list[torch.Tensor]] = [[], [], [], [], []]
    for rows in row_blocks(logits_MV, dense=False):
        work_RV = logits_MV[rows].to(dtype, copy=True)
        labels_R = label_ids_M[rows].long()
        top_R = work_RV.max(1)
        sure_R = (top_R.values - work_RV.logsumexp(1)).exp()
        of_block = None if targets is None else targets.rows(rows)
        kl_R, nll_R = block_loss_(work_RV, labels_R, of_block, _FORWARD_KL, Share())
        columns = [nll_R, sure_R, top_R.indices == labels_R]
        if of_block is not None and kl_R is not None:
            columns += [kl_R, top_R.indices == of_block.ids_TK[:, 0]]
        for kept, column in zip(found, columns, strict=False):
            kept.append(column.flatten().cpu())
    nll, sure, correct, kl, agreed = (torch.cat(kept).numpy() if kept else None for kept in found)
    assert nll is not None
    assert sure is not None
    assert correct is not None
    return (
        nll.astype(np.float64),
        sure.astype(np.float64),
        correct,
        None if kl is None else kl.astype(np.float64),
        agreed,
    )


def _targets(rows: pa.Table, spec: CodecSpec, device: torch.device) -> TopKTargets:
    targets = decode(rows, spec, device)
    assert isinstance(targets, TopKTargets), "held-out rows are scored with codec top_k"
    return targets


def _by_length(rows: pa.Table) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
    """(which rows, the rows), shortest first, each part of at most MICRO_BATCH_TOKENS or one row.

    Rows without a token to learn are left out.
    """
    has_any = np.bincount(tokens_of(rows), minlength=rows.num_rows) > 0
    lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
    order = np.flatnonzero(has_any)
    order = order[np.argsort(lengths[order], kind="stable")]
    at = 0
    while at < len(order):
        stop = at + 1
        while stop < len(order) and (stop + 1 - at) * lengths[order[stop]] <= MICRO_BATCH_TOKENS:
            stop += 1
        yield order[at:stop], rows.take(order[at:stop])
        at = stop


def _in_order(parts: list[TokenScores]) -> TokenScores:
    """Parts joined, tokens in the order of rows and of their places in them."""
    joined: list[Any] = [
        None
        if any(getattr(part, field.name) is None for part in parts)
        else np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(TokenScores)
    ]
    whole = TokenScores(*joined)
    return whole.where(np.argsort(whole.row_T, kind="stable"))
