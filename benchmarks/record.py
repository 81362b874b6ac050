"""Where a benchmark's figures go: `benchmarks/results/NAME.json`, with what they were taken on."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("raykd", "ray", "torch", "transformers", "deepspeed", "pyarrow")


class Case(Protocol):
    """What a benchmark runs one of."""

    @property
    def name(self) -> str:
        """In tables, and for `--only`."""
        ...


def console() -> Console:
    """Wide enough for the tables where no terminal says how wide it is."""
    return Console(width=None if Console().is_terminal else 132)


def parser(description: str | None, cases: Sequence[Case]) -> ArgumentParser:
    """What all benchmarks of several cases understand."""
    made = ArgumentParser(description=description)
    made.add_argument("--only", nargs="*", help=f"Of {', '.join(case.name for case in cases)}.")
    made.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    return made


def chosen(cases: Sequence[Any], arguments: Namespace) -> list[Any]:
    """The cases that `--only` names; all of them without it."""
    return [case for case in cases if not arguments.only or case.name in arguments.only]


def machine() -> dict[str, Any]:
    """What the figures depend on beside raykd."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in PACKAGES},
    }


def write(name: str, on: dict[str, Any], conditions: dict[str, Any], results: Any) -> Path:
    """Write the figures, over those of an earlier run."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": on,
        "conditions": conditions,
        "results": results,
    }
    file.write_text(json.dumps(record, indent=2) + "\n")
    return file


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
