"""Codec `top_k`: the k likeliest ids, their log probabilities, and the mass of all others.

What is exact and what is bounded, of a token's distribution over k ids and the tail:

- at each of the job's temperatures, with fp32 values: exact, to float32. The tail's mass there is
  summed over the whole vocabulary at the teacher, so the normaliser is the true one;
- with bf16, int8 or int6 values: ids, the likeliest of them, the kept mass and the tail's mass at
  temperature 1 are exact, and so is the log tail at every temperature. Each kept log probability is
  off by at most one step (`quantize`);
- at a temperature asked for later: the kept ones are as good as at temperature 1; the tail's mass
  is bounded (`retemper.retempered_tail`), exact only if everything is kept (k = V);
- how the tail's mass is spread over its ids is not kept at all: divergences are taken over k + 1
  buckets, and by the data-processing inequality are at most those over the vocabulary.

On the wire, fp32: ids and log probabilities likeliest first, read without a copy. The narrow widths
lie by ascending id, as gaps, with their codes beside them: in Parquet that takes 9 % less than
likeliest first, and 2 % less than likeliest first with codes as steps (benchmarks/codecs.py,
"orders"). It makes the check for doubled ids free and costs one sort a side.

Shapes: T tokens, M tokens of a table, V vocabulary ids, K ids kept, N temperatures.
"""

from __future__ import annotations

import math
from typing import Final

import pyarrow as pa
import torch

from raykd.soft_targets import checks
from raykd.soft_targets.columns import Column, read_columns
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.ids import (
    from_gaps,
    id_type,
    pack_ids,
    sort_rows,
    to_gaps,
    unpack_ids,
)
from raykd.soft_targets.quantize import (
    BITS,
    distances,
    pack_6_bits,
    quantize,
    unpack_6_bits,
)
from raykd.soft_targets.reduction import encode_top_k
from raykd.soft_targets.spec import CodecSpec

__all__ = ["TopKTargets", "columns", "decode", "encode", "encode_top_k", "pack"]

IDS: Final = "target_ids"
GAPS: Final = "target_id_gaps"
LOGPROBS: Final = "target_logprobs"
CODES: Final = "target_codes"
TOP: Final = "target_top_logprob"
SCALE: Final = "target_scale"
LOG_TAIL: Final = "target_log_tail"
LABEL: Final = "label_logprobs"

_CODE_BITS: Final = {"bf16": 16, **BITS}


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order."""
    ids = id_type(spec.vocab_size)
    tail = [Column(LOG_TAIL, pa.float32(), len(spec.temperatures))] if spec.tail else []
    label = Column(LABEL, pa.float32())
    if spec.values == "fp32":
        kept = [Column(IDS, ids, spec.top_k), Column(LOGPROBS, pa.float32(), spec.top_k)]
        return [label, *kept, *tail]
    codes = Column(CODES, pa.uint8(), spec.top_k)
    scale = [Column(SCALE, pa.uint16())]
    if spec.values == "bf16":
        codes, scale = Column(CODES, pa.uint16(), spec.top_k), []
    elif spec.values == "int6":
        codes = Column(CODES, pa.uint8(), -(-spec.top_k // 4) * 3)
    top = Column(TOP, pa.float32())
    return [label, Column(GAPS, ids, spec.top_k), codes, top, *scale, *tail]


def encode(logits_TV: torch.Tensor, label_ids_T: torch.Tensor, spec: CodecSpec) -> Encoded:
    """Reduce and pack; see `encode_top_k` for what it takes and refuses."""
    temperatures = spec.temperatures if spec.tail else spec.temperatures[:1]
    return pack(encode_top_k(logits_TV, label_ids_T, spec.top_k, temperatures), spec)


def pack(targets: TopKTargets, spec: CodecSpec) -> Encoded:
    """Lay reduced targets into the wire's columns."""
    kept = _pack_exact if spec.values == "fp32" else _pack_narrow
    packed = {LABEL: targets.label_logprobs_T[:, None], **kept(targets, spec)}
    if spec.tail:
        packed[LOG_TAIL] = targets.log_tail_TN
    return Encoded(packed)


def _pack_exact(targets: TopKTargets, spec: CodecSpec) -> dict[str, torch.Tensor]:
    return {IDS: pack_ids(targets.ids_TK, spec.vocab_size), LOGPROBS: targets.logprobs_TK}


def _pack_narrow(targets: TopKTargets, spec: CodecSpec) -> dict[str, torch.Tensor]:
    quantized = quantize(targets.logprobs_TK, spec.values)
    bits = _CODE_BITS[spec.values]
    # Id above, code below: one sort of whole numbers carries the codes along.
    ids_TK = targets.ids_TK.to(_key_type(spec))
    keys_TK = sort_rows((ids_TK << bits) | quantized.codes_TK)
    codes_TK = (keys_TK & (2**bits - 1)).int()
    packed = {
        GAPS: pack_ids(to_gaps(keys_TK >> bits), spec.vocab_size),
        CODES: _pack_codes(codes_TK, spec.values),
        TOP: quantized.top_T1,
    }
    if quantized.scale_T1 is not None:
        packed[SCALE] = quantized.scale_T1.view(torch.uint16)
    return packed


def _key_type(spec: CodecSpec) -> torch.dtype:
    """The narrowest integers that hold an id and a code side by side."""
    bits = (spec.vocab_size - 1).bit_length() + _CODE_BITS[spec.values]
    return torch.int32 if bits < 32 else torch.int64


def _pack_codes(codes_TK: torch.Tensor, values: str) -> torch.Tensor:
    if values == "int6":
        return pack_6_bits(codes_TK)
    return codes_TK.to(torch.int16).view(torch.uint16) if values == "bf16" else codes_TK.byte()


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> TopKTargets:
    """Read and check the targets of all rows of `table`; see `codec.decode`."""
    lengths_S, read = read_columns(table, columns(spec))
    label_M = read[LABEL][:, 0]
    num_temperatures = len(spec.temperatures)
    # Nothing kept of the tail reads as a tail without mass.
    log_tail_MN = read.get(LOG_TAIL, torch.tensor(-math.inf)).expand(len(label_M), num_temperatures)
    if len(label_M) == 0:
        empty = torch.empty(0, spec.top_k)
        return TopKTargets(empty.int(), empty, log_tail_MN, label_M).to(device)
    unpack = _unpack_exact if spec.values == "fp32" else _unpack_narrow
    ids_MK, logprobs_MK, conditions = unpack(read, spec)
    conditions += [
        checks.mass_is_one(logprobs_MK, log_tail_MN[:, 0] if spec.tail else None),
        (
            log_tail_MN.amax(1) < math.inf,
            lambda m: f"its log tail is {log_tail_MN[m].tolist()}",
        ),
        checks.at_most_0(label_M, "its label's"),
    ]
    checks.require(table, lengths_S, conditions)
    return TopKTargets(ids_MK, logprobs_MK, log_tail_MN, label_M).to(device)


_Unpacked = tuple[torch.Tensor, torch.Tensor, list[checks.Condition]]


def _unpack_exact(read: dict[str, torch.Tensor], spec: CodecSpec) -> _Unpacked:
    ids_MK, logprobs_MK = unpack_ids(read[IDS]), read[LOGPROBS]
    ascending_MK = sort_rows(ids_MK)
    # Not a difference: -inf follows -inf where the teacher rules ids out.
    falling_M = (logprobs_MK[:, 1:] <= logprobs_MK[:, :-1]).all(1)
    return (
        ids_MK,
        logprobs_MK,
        [
            checks.ids_within(ascending_MK[:, 0], ascending_MK[:, -1], spec.vocab_size),
            checks.ids_distinct(ascending_MK),
            checks.at_most_0(logprobs_MK[:, 0], "its greatest"),
            (falling_M, lambda m: "its log probabilities hold NaN or are not likeliest first"),
        ],
    )


def _unpack_narrow(read: dict[str, torch.Tensor], spec: CodecSpec) -> _Unpacked:
    ascending_MK = from_gaps(unpack_ids(read[GAPS]))
    codes_MK = _unpack_codes(read[CODES], spec)
    top_M1 = read[TOP]
    scale_M1 = read[SCALE].view(torch.bfloat16) if spec.values in BITS else None
    conditions = [
        checks.ids_within(ascending_MK[:, 0], ascending_MK[:, -1], spec.vocab_size),
        checks.ids_distinct(ascending_MK),
    ]
    # Code above, id below: sorted, the likeliest comes first and equals stay by id.
    bits = (spec.vocab_size - 1).bit_length()
    key_type = _key_type(spec)
    keys_MK = sort_rows((codes_MK.to(key_type) << bits) | ascending_MK.to(key_type))
    codes_MK = (keys_MK >> bits).int()
    logprobs_MK = top_M1 - distances(codes_MK, scale_M1, spec.values)
    second_M = codes_MK[:, 1] if spec.top_k > 1 else torch.ones_like(codes_MK[:, 0])
    conditions += [
        checks.at_most_0(top_M1[:, 0], "its greatest"),
        (
            (codes_MK[:, 0] == 0) & (second_M > 0),
            lambda m: "not just one of its ids is the likeliest",
        ),
    ]
    if scale_M1 is not None:
        scale_M = scale_M1[:, 0].float()
        conditions.append(
            (
                (scale_M > 0) & (scale_M < math.inf),
                lambda m: f"its scale is {float(scale_M[m])}, allowed is above 0 and finite",
            )
        )
    return (keys_MK & (2**bits - 1)).int(), logprobs_MK, conditions


def _unpack_codes(packed: torch.Tensor, spec: CodecSpec) -> torch.Tensor:
    return unpack_6_bits(packed, spec.top_k) if spec.values == "int6" else packed
