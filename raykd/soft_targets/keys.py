"""One key a token, and one uniform number a key: chance without a generator's state.

What is drawn for a token then depends on nothing but the row's own ids, the token's place and the
seed: a row scored again, on another replica, in another batch or epoch, gives the same ids.

Shapes: S rows, T tokens learned from, all rows one after the other.

Source: SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def token_keys(
    input_ids_rows: Sequence[npt.NDArray[Any]], kept_counts: Sequence[int], seed: int
) -> torch.Tensor:
    """Give every token learned from its own key.

    Args:
        input_ids_rows: The token ids of each of S rows, any integer dtype.
        kept_counts: Tokens learned from in each row.
        seed: `CodecSpec.seed`, any whole number of at most 64 bits.

    Returns:
        int64 keys [T], T the sum of `kept_counts`, on the CPU.

    Raises:
        ValueError: There is not one count a row.
    """
    if len(input_ids_rows) != len(kept_counts):
        raise ValueError(f"one count a row: {len(input_ids_rows)} rows, {len(kept_counts)} counts")
    salt = (seed % 2**64).to_bytes(8, "little")
    keys = [
        _row_hash(ids, salt) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        for ids, count in zip(input_ids_rows, kept_counts, strict=True)
    ]
    joined = np.concatenate([np.empty(0, np.uint64), *keys])
    return torch.from_numpy(joined.view(np.int64))


def _row_hash(ids: npt.NDArray[Any], salt: bytes) -> np.uint64:
    # One width and one byte order, so that the same ids hash the same on every machine.
    content = np.ascontiguousarray(ids, dtype="<i8").tobytes()
    digest = hashlib.blake2b(content, digest_size=8, key=salt).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def uniform(keys_T: torch.Tensor) -> torch.Tensor:
    """Map int64 keys to float64 in [0, 1), uniform over keys; on any device, bit for bit the same.

    One step of SplitMix64; torch has no unsigned 64-bit arithmetic, so shifts are masked.
    """
    mixed_T = keys_T + _signed(_GOLDEN)
    for shift, factor in _MIX:
        mixed_T = (mixed_T ^ _shifted(mixed_T, shift)) * _signed(factor)
    mixed_T = mixed_T ^ _shifted(mixed_T, 31)
    return _shifted(mixed_T, 11).double() * 2.0**-53


def _shifted(bits_T: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right as an unsigned number."""
    shifted_T: torch.Tensor = (bits_T >> by) & (2 ** (64 - by) - 1)
    return shifted_T


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits
