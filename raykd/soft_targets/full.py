"""Codec `full`: every log probability, for small vocabularies and as the reference of the others.

Shapes: T tokens, M tokens of a table, V vocabulary ids, B tokens of one block.
"""

from __future__ import annotations

import math
from typing import Final

import pyarrow as pa
import torch

from raykd.soft_targets import checks
from raykd.soft_targets.columns import Column, read_columns
from raykd.soft_targets.decoded import FullTargets
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import block_tokens, check_finite, check_labels

LOGPROBS: Final = "target_logprobs"
LABEL: Final = "label_logprobs"


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order."""
    value_type = pa.float32() if spec.values == "fp32" else pa.uint16()
    return [Column(LABEL, pa.float32()), Column(LOGPROBS, value_type, spec.vocab_size)]


@torch.no_grad()
def encode(logits_TV: torch.Tensor, label_ids_T: torch.Tensor, spec: CodecSpec) -> Encoded:
    """Normalise in float32, then narrow.

    Args:
        logits_TV: Any float dtype. -inf and ties are legal.
        label_ids_T: Any integer dtype, in [0, V).
        spec: Codec `full`.

    Raises:
        TokenError: A token's logits hold NaN, +inf or nothing finite, or its label lies outside the
            vocabulary.
        ValueError: There is not one label a token.
    """
    check_labels(logits_TV, label_ids_T)
    logprobs_TV = logits_TV.float().log_softmax(1)
    # NaN wherever something is: log_softmax spreads it over its token.
    check_finite(logprobs_TV.amax(1))
    label_T1 = logprobs_TV.gather(1, label_ids_T.long()[:, None])
    if spec.values == "bf16":
        return Encoded({LABEL: label_T1, LOGPROBS: logprobs_TV.bfloat16().view(torch.uint16)})
    return Encoded({LABEL: label_T1, LOGPROBS: logprobs_TV})


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> FullTargets:
    """Read and check the distributions of all rows of `table`; see `codec.decode`."""
    lengths_S, read = read_columns(table, columns(spec))
    label_M, logprobs_MV = read[LABEL][:, 0], read[LOGPROBS]
    if spec.values == "bf16":
        logprobs_MV = logprobs_MV.view(torch.bfloat16)
    mass_M = _mass(logprobs_MV)
    slack = _mass_slack(spec)
    checks.require(
        table,
        lengths_S,
        [
            (
                (mass_M - 1.0).abs() <= slack,
                lambda m: f"its mass is {float(mass_M[m]):.6g}, not 1",
            ),
            checks.at_most_0(label_M, "its label's"),
        ],
    )
    return FullTargets(logprobs_MV, label_M).to(device)


def _mass(logprobs_MV: torch.Tensor) -> torch.Tensor:
    """Sum of probabilities [M], without all of them at once in memory."""
    num_tokens, vocab_size = logprobs_MV.shape
    size = block_tokens(vocab_size, logprobs_MV.device)
    blocks = torch.split(logprobs_MV, size) if num_tokens else ()
    # Not in place: a float32 block is the table's own memory.
    sums = [block_BV.float().exp().sum(1) for block_BV in blocks]
    return torch.cat(sums) if sums else torch.empty(0)


def _mass_slack(spec: CodecSpec) -> float:
    """How far the mass may miss 1.

    bf16 moves a log probability x by at most |x| / 2^9, and the sum of p |x| is the entropy: at
    most log V. Twice that, for the change of p itself.
    """
    if spec.values == "fp32":
        return checks.MASS_SLACK
    return checks.MASS_SLACK + math.log(spec.vocab_size) * 2.0**-8
