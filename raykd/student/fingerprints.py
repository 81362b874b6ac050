"""What every parameter is in all its bits: one number each, the same however ZeRO shards it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raykd.errors import StorageError
from raykd.student.integrity import write_synced

FILE = "parameters.json"
KINDS = ("fp32", "exp_avg", "exp_avg_sq")
"""The master weight and AdamW's moments, under DeepSpeed's names."""
CHUNK = 1 << 17
"""Values at a time: few enough for a processor's cache."""
_SPREAD = 0x9E3779B97F4A7C15
"""Odd and far from any regular step: keeps the two sums apart."""

Piece = tuple[str, torch.Tensor, int]
"""A key, this rank's values, and the place of the first of them in the parameter."""


def fingerprint(values: torch.Tensor, start: int = 0) -> int:
    """Sum of each value's bits, as they are and times their place, modulo 2**64.

    Sums of disjoint pieces add up to that of the whole, in any order; zeros count for nothing.

    Args:
        values: [N], any floating dtype; read as fp32.
        start: Place of the first value.
    """
    total = 0
    places = torch.arange(min(CHUNK, values.numel()), device=values.device)
    for at in range(0, values.numel(), CHUNK):
        bits = values[at : at + CHUNK].detach().float().contiguous().view(torch.int32).long()
        plain = int(bits.sum())
        by_place = int((bits * places[: bits.numel()]).sum()) + (start + at) * plain
        total += plain + _SPREAD * by_place
    return _signed(total)


def of_zero(optimizer: Any) -> dict[str, int]:
    """The fingerprints of all trained parameters, over all ranks; every rank calls this together.

    Args:
        optimizer: DeepSpeed's, of ZeRO stage 1, 2 or 3.
    """
    keys = [f"{name}/{kind}" for name in _names(optimizer) for kind in KINDS]
    sums = dict.fromkeys(keys, 0)
    for key, values, start in _pieces(optimizer):
        sums[key] = _signed(sums[key] + fingerprint(values, start))
    tensor = torch.tensor(list(sums.values()), dtype=torch.int64, device=_device())
    dist.all_reduce(tensor)
    return dict(zip(keys, tensor.tolist(), strict=True))


def save(directory: Path, sums: dict[str, int]) -> None:
    """Keep them with a checkpoint."""
    write_synced(directory / FILE, json.dumps(sums, indent=0))


def require_same(directory: Path, sums: dict[str, int]) -> bool:
    """Compare with what was kept; False where nothing was.

    Raises:
        StorageError: A parameter or its moments are others; names the first.
    """
    file = directory / FILE
    if not file.is_file():
        return False
    saved = json.loads(file.read_text())
    differing = [key for key in {**saved, **sums} if saved.get(key) != sums.get(key)]
    if differing:
        name, _, kind = differing[0].rpartition("/")
        raise StorageError(
            f"{directory}: after loading, {name} ({kind}) is not what was saved, nor are "
            f"{len(differing) - 1} others of {len(saved)}; go on with the number of ranks that "
            "saved it, or remove it to go on from the one before"
        )
    return True


def _names(optimizer: Any) -> list[str]:
    groups = optimizer.fp16_groups if _is_stage_3(optimizer) else optimizer.bit16_groups
    return [optimizer.param_names[parameter] for group in groups for parameter in group]


def _pieces(optimizer: Any) -> Iterator[Piece]:
    """This rank's values, as they lie in DeepSpeed's flat buffers."""
    is_stage_3 = _is_stage_3(optimizer)
    flats = (
        optimizer.fp32_partitioned_groups_flat
        if is_stage_3
        else optimizer.single_partition_of_fp32_groups
    )
    groups = optimizer.fp16_groups if is_stage_3 else optimizer.bit16_groups
    for flat, group in zip(flats, groups, strict=True):
        state = optimizer.optimizer.state[flat]
        kept = {kind: flat if kind == "fp32" else state.get(kind) for kind in KINDS}
        cut = _cut_stage_3 if is_stage_3 else _cut_stage_1_and_2
        for parameter, offset, start, size in cut(group):
            for kind, values in kept.items():
                if values is not None:
                    name = f"{optimizer.param_names[parameter]}/{kind}"
                    yield name, values.flatten().narrow(0, offset, size), start


def _cut_stage_1_and_2(group: list[Any]) -> Iterator[tuple[Any, int, int, int]]:
    """(parameter, offset in the flat buffer, place in the parameter, size)."""
    for parameter in group:
        if (mapping := parameter._hp_mapping) is not None:
            high, low = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
            yield parameter, high.start, low.start, high.numel


def _cut_stage_3(group: list[Any]) -> Iterator[tuple[Any, int, int, int]]:
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    offset = 0
    for parameter in group:
        share = math.ceil(parameter.ds_numel / num_ranks)
        start = rank * share
        size = max(0, min(share, parameter.ds_numel - start))
        yield parameter, offset, start, size
        offset += share


def _is_stage_3(optimizer: Any) -> bool:
    return hasattr(optimizer, "fp32_partitioned_groups_flat")


def _device() -> torch.device:
    is_nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")


def _signed(value: int) -> int:
    """The same number modulo 2**64, as int64 holds it."""
    return (value + 2**63) % 2**64 - 2**63
