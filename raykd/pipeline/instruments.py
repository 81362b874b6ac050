"""raykd's metrics as Ray's: made when first used, in the process that uses them.

Ray's agent on each node collects them every few seconds and shows them to Prometheus.
"""

from __future__ import annotations

import math
import threading
from typing import Any

from ray.util.metrics import Counter, Gauge

from raykd.telemetry.names import METRICS, PREFIX


class Instruments:
    """The gauges and counters of one run; thread-safe."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._made: dict[str, Any] = {}
        self._making = threading.Lock()

    def set(self, name: str, value: float | None) -> None:
        """Set a gauge.

        Args:
            name: Without `raykd_`.
            value: None, and what is not finite, leaves it as it is: Ray exports no such number.
        """
        if value is not None and math.isfinite(value):
            self._instrument(PREFIX + name).set(float(value), tags={"run": self._run})

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter.

        Args:
            name: Without `raykd_` and `_total`.
            value: How much; nothing is done for 0.
            labels: Those beside `run`.
        """
        if value > 0:
            tags = {"run": self._run, **labels}
            self._instrument(f"{PREFIX}{name}_total").inc(float(value), tags=tags)

    def _instrument(self, name: str) -> Any:
        with self._making:
            if name not in self._made:
                metric = METRICS[name]
                kind: Any = Gauge if metric.kind == "gauge" else Counter
                self._made[name] = kind(name, metric.description, metric.labels)
            return self._made[name]


_of_runs: dict[str, Instruments] = {}


def instruments_of(run: str) -> Instruments:
    """The instruments of a run, one set a process."""
    return _of_runs.setdefault(run, Instruments(run))
