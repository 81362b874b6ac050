"""vLLM's prompt log probabilities as soft targets.

For every token of a prompt but the first, vLLM says its log probability and those of the likeliest
ids in its place, likeliest first; all are normalised over the whole vocabulary, at temperature 1.

Shapes: M tokens learned from, C ids asked for, K ids kept, V vocabulary ids shared with the
student.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from raykd.errors import SoftTargetError, TeacherError
from raykd.soft_targets import top_k
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import check_finite
from raykd.teacher.vllm_documents import Document

MOST_PADDED: Final = 16
"""Ids of a padded head that may stand among the likeliest, each of which takes the place of one."""


class Flat(Protocol):
    """What is read of `vllm.logprobs.FlatLogprobs`."""

    start_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, eq=False)
class Read:
    """What vLLM said at M tokens.

    Attributes:
        ids_MC: int64, likeliest first.
        logprobs_MC: float32, nats.
        label_logprobs_M: float32: of the token that really follows.
    """

    ids_MC: npt.NDArray[np.int64]
    logprobs_MC: npt.NDArray[np.float32]
    label_logprobs_M: npt.NDArray[np.float32]

    @classmethod
    def concatenate(cls, parts: list[Read]) -> Read:
        """Join at least one part, token after token; all have the same C."""
        return cls(
            np.concatenate([part.ids_MC for part in parts]),
            np.concatenate([part.logprobs_MC for part in parts]),
            np.concatenate([part.label_logprobs_M for part in parts]),
        )


def num_asked(spec: CodecSpec, teacher_vocab_size: int) -> int:
    """Log probabilities to ask for at each token, so that `spec.top_k` and one more are left."""
    padded = min(MOST_PADDED, teacher_vocab_size - spec.vocab_size)
    return min(spec.top_k + 1 + padded, teacher_vocab_size)


def read(flat: Flat, document: Document) -> Read:
    """Log probabilities at a document's wanted tokens.

    Args:
        flat: `prompt_logprobs` of its prompt, with `flat_logprobs`.
        document: The document.

    Raises:
        TeacherError: They are not those of this prompt's tokens.
    """
    ids = document.token_ids
    steps = len(ids) - 1
    width, left = divmod(len(flat.token_ids), steps)
    said = np.asarray(flat.token_ids, dtype=np.int64)
    if len(flat.start_indices) != len(ids) or left or width < 2:
        raise TeacherError(
            f"vLLM gave {len(flat.token_ids)} log probabilities at {len(flat.start_indices)} "
            f"tokens of a prompt of {len(ids)}; this version of vLLM is not one that raykd reads"
        )
    # The prompt's own token stands first, whether or not it is among the likeliest.
    said_TC = said.reshape(steps, width)
    if not np.array_equal(said_TC[:, 0], ids[1:]):
        raise TeacherError("vLLM gave the log probabilities of other tokens than its prompt's")
    logprobs_TC = np.asarray(flat.logprobs, dtype=np.float32).reshape(steps, width)
    at = document.wanted
    return Read(said_TC[at, 1:], logprobs_TC[at, 1:], logprobs_TC[at, 0])


def encode_top_k(said: Read, spec: CodecSpec) -> Encoded:
    """Codec `top_k` at temperature 1 from the likeliest ids alone.

    The tail is what the kept mass leaves of 1, in float64. Float32 log probabilities leave it with
    an error of about 1e-7, so it is held within what the likeliest id left out, p, allows: from p
    to p times the number of ids left out. Ids of a padded head take no mass as far as vLLM names
    them.

    Raises:
        TokenError: A token's log probabilities are no numbers.
        SoftTargetError: So many ids of a padded head are likely that fewer than `top_k` are left.
    """
    # NaN if one is, -inf if all are.
    check_finite(torch.from_numpy(said.logprobs_MC.max(axis=1)), "log probabilities")
    ids_MC, logprobs_MC, label_M = _without_padding(said, spec)
    kept_MK = logprobs_MC[:, : spec.top_k]
    targets = TopKTargets(
        torch.from_numpy(ids_MC[:, : spec.top_k].astype(np.int32)),
        torch.from_numpy(kept_MK.astype(np.float32)),
        torch.from_numpy(_log_tail(logprobs_MC, spec).astype(np.float32))[:, None],
        torch.from_numpy(label_M.astype(np.float32)),
    )
    return top_k.pack(targets, spec)


def _without_padding(
    said: Read, spec: CodecSpec
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[Any]]:
    """Ids and log probabilities, likeliest first, lower ids first among equals; and the labels'."""
    logprobs_MC = said.logprobs_MC.astype(np.float64)
    padded_MC = said.ids_MC >= spec.vocab_size
    label_M = said.label_logprobs_M.astype(np.float64)
    if padded_MC.any():
        mass_M = np.where(padded_MC, np.exp(logprobs_MC), 0.0).sum(axis=1)
        logprobs_MC = np.where(padded_MC, -math.inf, logprobs_MC - np.log1p(-mass_M)[:, None])
        label_M = label_M - np.log1p(-mass_M)
        _require_enough((~padded_MC).sum(axis=1), spec)
    order_MC = np.lexsort((said.ids_MC, -logprobs_MC, padded_MC), axis=1)
    return (
        np.take_along_axis(said.ids_MC, order_MC, axis=1),
        np.take_along_axis(logprobs_MC, order_MC, axis=1),
        label_M,
    )


def _require_enough(left_M: npt.NDArray[np.int64], spec: CodecSpec) -> None:
    if left_M.min() < min(spec.top_k + 1, spec.vocab_size):
        raise SoftTargetError(
            f"the teacher's head has rows beyond the {spec.vocab_size} tokens that both sides "
            f"share, and more than {MOST_PADDED} of them are among the likeliest {spec.top_k}: set "
            "`teacher.vllm.full_vocabulary: true`, or choose `teacher.engine: transformers`"
        )


def _log_tail(logprobs_MC: npt.NDArray[Any], spec: CodecSpec) -> npt.NDArray[Any]:
    """Log of the mass of the ids that are not kept [M]."""
    left_out = spec.vocab_size - spec.top_k
    if left_out == 0:
        return np.full(len(logprobs_MC), -math.inf)
    kept_M = np.exp(logprobs_MC[:, : spec.top_k]).sum(axis=1)
    next_M = np.exp(logprobs_MC[:, spec.top_k])
    tail_M = np.clip(1.0 - kept_M, next_M, next_M * left_out)
    with np.errstate(divide="ignore"):
        log_tail_M: npt.NDArray[Any] = np.log(tail_M)
    return log_tail_M


def whole_rows(said: Read, teacher_vocab_size: int, vocab_size: int) -> torch.Tensor:
    """Logits [M, V], up to a constant a token, of answers that hold the whole vocabulary.

    Raises:
        TeacherError: They do not.
    """
    num_tokens, width = said.ids_MC.shape
    if width != teacher_vocab_size:
        raise TeacherError(
            f"vLLM gave {width} log probabilities a token, not all {teacher_vocab_size}; this "
            "version of vLLM does not serve `teacher.vllm.full_vocabulary`"
        )
    rows_MV = np.empty((num_tokens, width), dtype=np.float32)
    np.put_along_axis(rows_MV, said.ids_MC, said.logprobs_MC, axis=1)
    return torch.from_numpy(rows_MV)[:, :vocab_size]
