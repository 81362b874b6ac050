"""Ray Data's scheduling loop at a walking pace.

The loop waits a tenth of a second at most for all tasks that run, and so turns ten times a second.
Where the student is the slower side and all that may lie between the two lies there, every task is
done and none may be taken: the loop then turns without a pause and takes half a core from the
student (benchmarks/overhead.py found it).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

SHORTEST_TURN_S: Final = 0.1


class Pace(ExecutionCallback):
    """Lets no turn of the loop be shorter than `SHORTEST_TURN_S`."""

    def __init__(self) -> None:
        self._turned = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Sleep out the rest of the turn."""
        rest = self._turned + SHORTEST_TURN_S - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        self._turned = time.monotonic()
