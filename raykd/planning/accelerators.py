"""GPUs by name: memory, speed. A small table that a person may replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from raykd.errors import JobError

TABLE: Final = Path(__file__).with_name("accelerators.yaml")
_KEYS: Final = ("memory_gib", "bf16_tflops", "memory_gb_per_s")
USABLE: Final = 0.92
"""Share of the memory that the plan fills at most: an assumption, for the CUDA context, NCCL and
what the allocator leaves between its blocks."""


@dataclass(frozen=True)
class Accelerator:
    """One GPU.

    Attributes:
        name: As Ray has it.
        memory_bytes: All of its memory that programs see.
        bf16_flops: Dense bf16 operations a second.
        memory_bytes_per_s: Bandwidth of its memory.
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    memory_bytes_per_s: float

    @property
    def usable_bytes(self) -> int:
        """What a plan may fill."""
        return int(self.memory_bytes * USABLE)


def read_accelerators(path: Path | None = None) -> dict[str, Accelerator]:
    """The table that comes with raykd, with the lines of another file before it.

    Raises:
        JobError: The file cannot be read, or a line is not as it must be.
    """
    found = _read(TABLE)
    return found if path is None else found | _read(path)


def _read(path: Path) -> dict[str, Accelerator]:
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise JobError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(rows, Mapping):
        raise JobError(f"{path}: write NAME: {{{': ..., '.join(_KEYS)}: ...}} for each GPU")
    return {str(name): _accelerator(str(name), row, path) for name, row in rows.items()}


def _accelerator(name: str, row: Any, path: Path) -> Accelerator:
    if not isinstance(row, Mapping) or set(row) != set(_KEYS) or not all(map(_good, row.values())):
        raise JobError(f"{path}: {name}: give {', '.join(_KEYS)}, each a number above 0")
    memory_gib, tflops, gb_per_s = (float(row[key]) for key in _KEYS)
    return Accelerator(name, int(memory_gib * 2**30), tflops * 1e12, gb_per_s * 1e9)


def _good(number: Any) -> bool:
    return not isinstance(number, bool) and isinstance(number, int | float) and number > 0
