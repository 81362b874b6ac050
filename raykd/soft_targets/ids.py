"""Ids of the vocabulary in as few bytes as it needs: two, three or four.

Shapes: T tokens, K ids kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import torch

from raykd.soft_targets.columns import BYTES_3

_WIDEST_2: Final = 2**16
_WIDEST_3: Final = 2**24


def id_type(vocab_size: int) -> pa.DataType:
    """What one id is in Arrow: uint16, three bytes, or int32."""
    if vocab_size <= _WIDEST_2:
        return pa.uint16()
    return BYTES_3 if vocab_size <= _WIDEST_3 else pa.int32()


def pack_ids(ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Narrow ids, or gaps between ids, in [0, V).

    Args:
        ids: int32 or int64, of any shape.
        vocab_size: V.

    Returns:
        The same shape in uint16 or int32; in three bytes the last axis is three times as long, of
        uint8, lowest byte first.
    """
    if vocab_size <= _WIDEST_2:
        # By way of int16: few of torch's kernels know uint16.
        return ids.to(torch.int16).view(torch.uint16)
    if vocab_size > _WIDEST_3:
        return ids.to(torch.int32)
    bytes_4 = ids.to(torch.int32).contiguous().view(torch.uint8)
    return bytes_4.view(*ids.shape, 4)[..., :3].flatten(-2)


def unpack_ids(packed: torch.Tensor) -> torch.Tensor:
    """Widen what `pack_ids` made: int32, or a view where it is int32 already."""
    if packed.dtype != torch.uint8:
        return packed.to(torch.int32)
    shape = (*packed.shape[:-1], packed.shape[-1] // 3)
    wide = torch.zeros(*shape, 4, dtype=torch.uint8, device=packed.device)
    wide[..., :3] = packed.view(*shape, 3)
    return wide.view(torch.int32)[..., 0]


def to_gaps(ids_TK: torch.Tensor) -> torch.Tensor:
    """Ascending ids to their differences, the first of a token from 0: smaller, alike numbers.

    At k = 128 Parquet and zstd then need 1.1 bytes an id (benchmarks/codecs.py, "orders").
    """
    gaps_TK = ids_TK.clone()
    gaps_TK[:, 1:] -= ids_TK[:, :-1]
    return gaps_TK


def from_gaps(gaps_TK: torch.Tensor) -> torch.Tensor:
    """Undo `to_gaps` on what `unpack_ids` gave, in integers that no corrupt gap can wrap."""
    fits = gaps_TK.shape[1] * int(gaps_TK.amax()) < 2**31 if gaps_TK.numel() else True
    return gaps_TK.cumsum(1, dtype=torch.int32 if fits else torch.int64)


def sort_rows(keys_TK: torch.Tensor) -> torch.Tensor:
    """Sort the values of every token, ascending.

    On a CPU by numpy, whose sort of short rows is 30 times as fast as torch's.
    """
    if keys_TK.device.type != "cpu":
        return keys_TK.sort(1).values
    return torch.from_numpy(np.sort(keys_TK.numpy(), axis=1))
