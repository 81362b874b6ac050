"""Arithmetic on a block of logits that fits the cache, in place: each pass over memory counts.

Shapes: R tokens of one block, V vocabulary ids.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from raykd.losses.targets import LogitShape

# Elements of one block in the arithmetic dtype: within the cache on a CPU, few launches on a GPU.
_BLOCK_ELEMENTS: Final = {"cpu": 2**19}
_BLOCK_ELEMENTS_GPU: Final = 2**25
_KEPT_BYTES: Final = 4 * 2**20


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, else float32: what logits of `dtype` are reckoned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_blocks(logits_TV: torch.Tensor, *, dense: bool) -> list[slice]:
    """Cut tokens into blocks of rows; smaller ones where the teacher's side is [R, V] too."""
    num_tokens, vocab_size = logits_TV.shape
    elements = _BLOCK_ELEMENTS.get(logits_TV.device.type, _BLOCK_ELEMENTS_GPU) >> dense
    step = max(1, elements // vocab_size)
    return [slice(at, min(at + step, num_tokens)) for at in range(0, num_tokens, step)]


def keep_freed_pages(device: torch.device) -> None:
    """Have the C library use the pages of freed blocks again, not hand them back each time.

    glibc hands back what lies free above twice the largest block that it saw freed. So it is shown
    one, never written to. Else the temporaries of every block of rows may be fresh pages, which
    was seen to cost a third of all CPU time.
    """
    if device.type == "cpu":
        torch.empty(_KEPT_BYTES, dtype=torch.uint8)


def exp_(work_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace logits by exp(logit - shift); return the shift [R] and each line's sum [R].

    The shift is the line's largest, so the sum is at least 1, or 0 where every logit is -inf.
    """
    top_R = work_RV.amax(1)
    # -inf - -inf would be NaN. NaN itself stays.
    shift_R = top_R.masked_fill(top_R == -math.inf, 0.0)
    return shift_R, work_RV.sub_(shift_R[:, None]).exp_().sum(1)


def shape_(work_RV: torch.Tensor, shape: LogitShape) -> torch.Tensor | None:
    """Turn a head's raw output into logits; return the cap's slope [R, V], None without a cap."""
    if shape.softcap is None:
        if shape.scale != 1.0:
            work_RV.mul_(shape.scale)
        return None
    work_RV.mul_(shape.scale / shape.softcap).tanh_()
    slope_RV = 1.0 - work_RV.square()
    work_RV.mul_(shape.softcap)
    return slope_RV


def unshape_(gradient_RV: torch.Tensor, slope_RV: torch.Tensor | None, shape: LogitShape) -> None:
    """Turn the gradient by the logits into that by the head's raw output: `shape_` backward."""
    if slope_RV is not None:
        gradient_RV.mul_(slope_RV)
    if shape.scale != 1.0:
        gradient_RV.mul_(shape.scale)
