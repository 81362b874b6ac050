"""Reads which ranks have failed while the group may still be restarted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"failure-(\d+)\.json")


@dataclass(frozen=True)
class RankFailure:
    """Why a rank failed."""

    rank: int
    error: str
    """The class of what was raised."""
    message: str
    traceback: str
    time: float
    """Unix seconds, on the rank's clock."""

    @property
    def sentence(self) -> str:
        """The failure in one line, by the last line of its message."""
        lines = self.message.strip().splitlines() or ["no message"]
        return f"rank {self.rank} failed: {self.error}: {lines[-1]}"


class FailuresTail:
    """Reads the files that failed ranks leave; a restarted rank removes its own again.

    Args:
        logs: The run's directory of logs.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._seen: set[tuple[int, float]] = {(f.rank, f.time) for f in self._read()}

    def poll(self) -> list[RankFailure]:
        """The failures since the last look that are still to be seen, the earliest first."""
        found = [one for one in self._read() if (one.rank, one.time) not in self._seen]
        self._seen.update((one.rank, one.time) for one in found)
        return sorted(found, key=lambda one: one.time)

    def _read(self) -> list[RankFailure]:
        found = []
        for file in self._logs.glob("failure-*.json"):
            name = _NAME.fullmatch(file.name)
            try:
                tree = json.loads(file.read_text())
            except FileNotFoundError:  # its rank has begun again
                continue
            if name:
                found.append(
                    RankFailure(
                        int(name.group(1)),
                        tree["type"],
                        tree["message"],
                        tree["traceback"],
                        tree["time"],
                    )
                )
        return found
