"""Codec `sampled`: a dozen ids a token, drawn at random, that are right on average.

Cross-entropy and forward KL are linear in the teacher's distribution p, so any unbiased estimate of
p, however sparse, gives unbiased gradients; the k likeliest ids alone do not, for what they leave
out is always the same (arXiv 2503.16870, "Sparse Logit Sampling", where R independent draws from a
proposal q are kept and id v weighs p_v / q_v times its share of the draws).

Here the R draws of a token are systematic: with C_v the proposal's cumulated mass up to and with id
v, and one number u uniform in [0, 1),

    count_v = floor(R C_v + u) - floor(R C_(v-1) + u),

the number of the points (j - u) / R, j = 1 .. R, that fall into v's piece of [0, 1]. For any fixed
a, floor(a + u) has mean a over u: count_v has mean R q_v, exactly, so weight_v =
(count_v / R) (p_v / q_v) has mean p_v: unbiased, id by id, as independent draws are. count_v is
always one of the two whole numbers beside R q_v, which is the least variance that a count of that
mean can have, at most 1/4; an independent one has R q_v (1 - q_v). An id of mass 1/R or more is
never missed. Counts of different ids hang together: the mean of a linear loss does not see it, and
its variance is in practice a third of that of independent draws (benchmarks/codecs.py), though
points at even distances could fall in step with a loss that alternates along the ids.

u comes from the token's key by a hash (`keys`), not from a generator: a row scored again anywhere
draws the same ids. The teacher's entropy travels beside them, so that the student's forward KL is
sum_v weight_v (-log student_v) - entropy.

Shapes: T tokens, M tokens of a table, V vocabulary ids, R draws, B tokens of one block, U ids drawn
for a token, I ids drawn for all tokens together, 1 an axis of length one.
"""

from __future__ import annotations

import math
from typing import Final

import pyarrow as pa
import torch

from raykd.soft_targets import checks
from raykd.soft_targets.columns import Column, read_columns
from raykd.soft_targets.decoded import SampledTokens
from raykd.soft_targets.encoded import RAGGED_LENGTHS, Encoded
from raykd.soft_targets.ids import id_type, pack_ids, unpack_ids
from raykd.soft_targets.keys import uniform
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import block_tokens, check_finite, check_labels

GAPS: Final = "target_id_gaps"
COUNTS: Final = "target_counts"
LOG_RATIOS: Final = "target_log_ratios"
ENTROPY: Final = "target_entropy"
LABEL: Final = "label_logprobs"


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order."""
    ragged = [
        Column(GAPS, id_type(spec.vocab_size), None),
        Column(COUNTS, pa.uint8(), None),
    ]
    if _has_ratios(spec):
        ragged.append(Column(LOG_RATIOS, pa.float32(), None))
    entropy = Column(ENTROPY, pa.float32())
    return [Column(LABEL, pa.float32()), Column(RAGGED_LENGTHS, pa.uint8()), *ragged, entropy]


def _has_ratios(spec: CodecSpec) -> bool:
    return spec.proposal != spec.target_temperature


@torch.no_grad()
def encode(
    logits_TV: torch.Tensor, label_ids_T: torch.Tensor, keys_T: torch.Tensor, spec: CodecSpec
) -> Encoded:
    """Draw each token's ids.

    Works block by block, in float32; the proposal is cumulated in float64.

    Args:
        logits_TV: Any float dtype. -inf and ties are legal.
        label_ids_T: Any integer dtype, in [0, V).
        keys_T: int64, of `token_keys`.
        spec: Codec `sampled`.

    Returns:
        The columns, on the device of `logits_TV`.

    Raises:
        TokenError: A token's logits hold NaN, +inf or nothing finite, or its label lies outside the
            vocabulary.
        ValueError: There is not one label and one key a token.
    """
    check_labels(logits_TV, label_ids_T)
    num_tokens, vocab_size = logits_TV.shape
    if keys_T.shape != (num_tokens,):
        raise ValueError(f"one key a token: {num_tokens} tokens, keys {tuple(keys_T.shape)}")
    uniforms_T1 = uniform(keys_T.to(logits_TV.device))[:, None]
    labels_T1 = label_ids_T.long()[:, None]
    block = block_tokens(vocab_size, logits_TV.device)
    blocks = [
        _encode_block(logits_TV[rows], labels_T1[rows], uniforms_T1[rows], spec)
        for rows in (slice(at, at + block) for at in range(0, max(1, num_tokens), block))
    ]
    check_finite(torch.cat([log_z_B for _, log_z_B in blocks]))
    return Encoded.concatenate([encoded for encoded, _ in blocks])


def _encode_block(
    logits_BV: torch.Tensor, labels_B1: torch.Tensor, uniforms_B1: torch.Tensor, spec: CodecSpec
) -> tuple[Encoded, torch.Tensor]:
    """Return the columns, and log normalisers [B] that are finite if and only if all is well."""
    work_BV = logits_BV.to(torch.float32, copy=True)
    work_BV -= work_BV.amax(1, keepdim=True)
    log_z_B1 = work_BV.logsumexp(1, keepdim=True)
    label_B1 = work_BV.gather(1, labels_B1) - log_z_B1
    proposal_BV = (work_BV / spec.proposal).exp_()
    ids_BR = _draw(proposal_BV, uniforms_B1, spec.draws)
    log_ratio_BR = None
    target_BV, target_z_B1 = proposal_BV, proposal_BV.sum(1, keepdim=True)
    if _has_ratios(spec):
        target_BV = (work_BV / spec.target_temperature).exp_()
        proposal_z_B1, target_z_B1 = target_z_B1, target_BV.sum(1, keepdim=True)
        difference = 1.0 / spec.target_temperature - 1.0 / spec.proposal
        log_ratio_BR = work_BV.gather(1, ids_BR) * difference
        log_ratio_BR += proposal_z_B1.log() - target_z_B1.log()
    # An id that is ruled out adds nothing: 0 times the least float32 there is, not 0 times -inf.
    scaled_BV = work_BV.div_(spec.target_temperature).clamp_(min=torch.finfo(torch.float32).min)
    mean_B1 = (target_BV * scaled_BV).sum(1, keepdim=True) / target_z_B1
    packed = _pack(ids_BR, log_ratio_BR, spec)
    packed[LABEL], packed[ENTROPY] = label_B1, target_z_B1.log() - mean_B1
    return Encoded(packed, frozenset(_ragged(spec))), log_z_B1[:, 0]


def _ragged(spec: CodecSpec) -> list[str]:
    return [column.name for column in columns(spec) if column.width is None]


def _draw(proposal_BV: torch.Tensor, uniforms_B1: torch.Tensor, draws: int) -> torch.Tensor:
    """Ids [B, R], ascending: the first id whose cumulated mass reaches each point."""
    cumulated_BV = proposal_BV.cumsum(1, dtype=torch.float64)
    numbers_R = torch.arange(1, draws + 1, dtype=torch.float64, device=proposal_BV.device)
    # Above 0, so that an id of no mass is never first to reach one; at most the whole.
    points_BR = (numbers_R - uniforms_B1) / draws * cumulated_BV[:, -1:]
    # NaN is refused after all blocks; until then it must not lead outside.
    return torch.searchsorted(cumulated_BV, points_BR).clamp_(max=proposal_BV.shape[1] - 1)


def _pack(
    ids_BR: torch.Tensor, log_ratio_BR: torch.Tensor | None, spec: CodecSpec
) -> dict[str, torch.Tensor]:
    """Ids as gaps, with how often each was drawn."""
    first_BR = torch.ones_like(ids_BR, dtype=torch.bool)
    first_BR[:, 1:] = ids_BR[:, 1:] != ids_BR[:, :-1]
    at_I = first_BR.flatten().nonzero()[:, 0]
    ids_I = ids_BR.flatten()[at_I]
    ends_I = torch.cat([at_I[1:], at_I.new_tensor([ids_BR.numel()][: len(at_I)])])
    gaps_I = ids_I.clone()
    gaps_I[1:] -= ids_I[:-1]
    starts_token_I = at_I % spec.draws == 0
    gaps_I = torch.where(starts_token_I, ids_I, gaps_I)
    packed = {
        RAGGED_LENGTHS: first_BR.sum(1, keepdim=True).byte(),
        GAPS: pack_ids(gaps_I, spec.vocab_size),
        COUNTS: (ends_I - at_I).byte(),
    }
    if log_ratio_BR is not None:
        packed[LOG_RATIOS] = log_ratio_BR.flatten()[at_I]
    return packed


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> SampledTokens:
    """Read and check the draws of all rows of `table`; see `codec.decode`."""
    lengths_S, read = read_columns(table, columns(spec))
    label_M, entropy_M = read[LABEL][:, 0], read[ENTROPY][:, 0]
    unique_M = read[RAGGED_LENGTHS][:, 0].long()
    gaps_I, counts_I = unpack_ids(read[GAPS]).long(), read[COUNTS]
    checks.require(table, lengths_S, [_drew_some(unique_M)])
    here_MU = torch.arange(max(1, int(unique_M.max()) if len(unique_M) else 1)) < unique_M[:, None]
    shape = tuple(here_MU.shape)
    gaps_MU = torch.zeros(shape, dtype=torch.int64).masked_scatter_(here_MU, gaps_I)
    counts_MU = torch.zeros(shape, dtype=torch.uint8).masked_scatter_(here_MU, counts_I)
    ids_MU = gaps_MU.cumsum(1)
    weights_MU = counts_MU / torch.tensor(float(spec.draws))
    if _has_ratios(spec):
        weights_MU.masked_scatter_(here_MU, weights_MU[here_MU] * read[LOG_RATIOS].exp())
    if len(label_M):
        # Padding repeats the last id in `ids_MU`, with a gap of 0.
        checks.require(
            table,
            lengths_S,
            [
                checks.ids_within(ids_MU[:, 0], ids_MU[:, -1], spec.vocab_size),
                _gaps_and_counts(gaps_MU, counts_MU, unique_M),
                _as_many_as_drawn(counts_MU, spec.draws),
                _weights_are_finite(weights_MU),
                _is_entropy(entropy_M, spec.vocab_size),
                checks.at_most_0(label_M, "its label's"),
            ],
        )
    ids_MU = ids_MU.masked_fill_(~here_MU, 0).int()
    return SampledTokens(ids_MU, weights_MU, entropy_M, label_M).to(device)


def _drew_some(unique_M: torch.Tensor) -> checks.Condition:
    return unique_M > 0, lambda m: "nothing was drawn for it"


def _gaps_and_counts(
    gaps_MU: torch.Tensor, counts_MU: torch.Tensor, unique_M: torch.Tensor
) -> checks.Condition:
    later_M = (gaps_MU[:, 1:] > 0).sum(1)
    drawn_M = (counts_MU > 0).sum(1)
    return (
        (later_M == unique_M - 1) & (drawn_M == unique_M),
        lambda m: "an id is there twice, or with no draw",
    )


def _as_many_as_drawn(counts_MU: torch.Tensor, draws: int) -> checks.Condition:
    sums_M = counts_MU.sum(1, dtype=torch.int64)
    return sums_M == draws, lambda m: f"its counts add up to {int(sums_M[m])}, not {draws} draws"


def _weights_are_finite(weights_MU: torch.Tensor) -> checks.Condition:
    return weights_MU.amax(1) < math.inf, lambda m: "a weight is not a finite number"


def _is_entropy(entropy_M: torch.Tensor, vocab_size: int) -> checks.Condition:
    most = math.log(vocab_size)
    slack = checks.LOGPROB_SLACK * (1.0 + most)
    return (
        (entropy_M >= -slack) & (entropy_M <= most + slack),
        lambda m: f"its entropy is {float(entropy_M[m])}, allowed is from 0 to {most:.4f}",
    )
