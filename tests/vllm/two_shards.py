"""A vLLM of two shards that scores rows and is killed: run by a test as a process of its own.

Arguments: model directory, directory with `rows.arrow` for what comes out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.vllm_arguments import VllmOptions
from raykd.teacher.vllm_engine import VllmEngine


def main(model: str, out: Path) -> None:
    spec = EngineSpec(ModelSource(model), "fp32", False, 1, 64, 1000)
    options = VllmOptions(tensor_parallel=2, kv_cache_gib=0.1)
    engine = VllmEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0), options)
    with pa.OSFile(str(out / "rows.arrow")) as source:
        rows = pa.ipc.open_file(source).read_all()
    scored = engine.score(rows, CodecSpec("top_k", 326, top_k=8, values="fp32"))
    assert scored is not None
    with (
        pa.OSFile(str(out / "scored.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, scored.schema) as writer,
    ):
        writer.write_table(scored)
    own = subprocess.run(
        ["ps", "--no-headers", "-o", "pid,comm", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    )
    children = [line.split()[0] for line in own.stdout.splitlines() if " ps" not in line]
    (out / "children").write_text(" ".join(children))
    # As the kernel does with a process that takes too much memory.
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
