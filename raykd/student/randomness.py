"""The random states of a rank: kept in a checkpoint, drawn anew where none are kept."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def seed_rank(seed: int, step: int, rank: int) -> None:
    """States that depend on nothing but these three; ranks draw different dropout masks."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    drawn = int.from_bytes(digest, "little")
    torch.manual_seed(drawn % 2**63)
    np.random.seed(drawn % 2**32)
    random.seed(drawn)


def save(directory: Path, rank: int) -> None:
    """Write this rank's states of torch, numpy and Python as JSON."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tree: dict[str, Any] = {
        "torch": _hex(torch.get_rng_state()),
        "cuda": _hex(torch.cuda.get_rng_state()) if _uses_cuda() else None,
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": random.getstate(),
    }
    _file(directory, rank).write_text(json.dumps(tree))


def restore(directory: Path, rank: int) -> bool:
    """Go on from what `save` wrote; False where there is nothing of this rank."""
    file = _file(directory, rank)
    if not file.is_file():
        return False
    tree = json.loads(file.read_text())
    torch.set_rng_state(_tensor(tree["torch"]))
    if tree["cuda"] is not None and _uses_cuda():
        torch.cuda.set_rng_state(_tensor(tree["cuda"]))
    np.random.set_state(tuple(tree["numpy"]))
    version, state, gauss = tree["python"]
    random.setstate((version, tuple(state), gauss))
    return True


def _file(directory: Path, rank: int) -> Path:
    return directory / f"rng-{rank:05d}.json"


def _uses_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _hex(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(state: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
