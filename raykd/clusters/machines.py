"""Machines that providers rent, by their names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

TABLE = Path(__file__).with_name("machines.yaml")

BYTES_PER_GBIT = 1e9 / 8


@dataclass(frozen=True)
class Machine:
    """What one machine has.

    Attributes:
        cpus: vCPUs.
        memory_bytes: Memory.
        gpus: GPUs.
        accelerator: The GPU's name as Ray has it; None without GPUs.
        network_bytes_per_s: Network that is always there; None where the table does not say.
    """

    cpus: int
    memory_bytes: int
    gpus: int
    accelerator: str | None
    network_bytes_per_s: float | None


def machine(name: str | None) -> Machine | None:
    """The machine of this name, in any case; None where the table has none."""
    return None if name is None else _table().get(name.lower())


@cache
def _table() -> dict[str, Machine]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        name.lower(): Machine(
            cpus=row["cpus"],
            memory_bytes=round(row["memory_gib"] * 2**30),
            gpus=row.get("gpus", 0),
            accelerator=row.get("accelerator"),
            network_bytes_per_s=(
                row["network_gbit_s"] * BYTES_PER_GBIT if "network_gbit_s" in row else None
            ),
        )
        for name, row in rows.items()
    }
