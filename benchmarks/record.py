"""Where a benchmark's figures go: `benchmarks/results/NAME.json`, with what they were taken on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("raykd", "ray", "torch", "transformers", "deepspeed", "pyarrow")


def console() -> Console:
    """Wide enough for the tables where no terminal says how wide it is."""
    return Console(width=None if Console().is_terminal else 132)


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
