"""Two shards of one teacher, each a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

LIMIT_S = 240


def run_two(script: str, model: Path, *rest: Path) -> None:
    """Run a script of this directory as `SCRIPT MODEL RANK PORT REST...` for ranks 0 and 1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(__file__)
    shards = [
        subprocess.Popen(
            [sys.executable, *map(str, (here.with_name(script), model, rank, port, *rest))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(here.parents[3])},
        )
        for rank in range(2)
    ]
    try:
        said = [shard.communicate(timeout=LIMIT_S)[0] for shard in shards]
    finally:
        for shard in shards:
            shard.kill()
    assert [shard.returncode for shard in shards] == [0, 0], said
