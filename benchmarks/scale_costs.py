"""What does a block cost each process between teacher and student? The figures `scale.py` needs.

CPU seconds by role, over the blocks of a stretch in the middle of a run. The parts:

- `deal`: Ray Data alone. raykd's own dataset with a teacher that is a pause in the loader, and
  consumers that only ask for their next block: what the split coordinator, loaders, readers and
  Ray's daemons spend on a block, with few and many blocks in flight, and few and many ranks.
- `serve`: the real way with sleeping models: what a request costs a replica and the handle.
- `polls`: what ranks that wait cost the coordinator; no Ray is started.
- `copy`: what a byte more of a block costs its loader at least.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
import record
import standins
from overhead import CpuSeries
from ray import cloudpickle
from ray.data._internal.execution.streaming_executor_state import OpBufferQueue, OpState
from rich.console import Console
from rich.table import Table

from raykd.config.train import StreamConfig
from raykd.data import stream
from raykd.data.layout import BlockLayout
from raykd.data.order import RowOrder
from raykd.data.rows import open_rows
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec

LOOK_S = 0.2
NUM_ROWS, ROW_TOKENS, ROWS_A_BLOCK = 64, 256, 2
CONDITIONS = {
    "rows_a_block": ROWS_A_BLOCK,
    "sequence_length_tokens": ROW_TOKENS,
    "top_k": 64,
}
SPEC = CodecSpec(
    codec="top_k", vocab_size=standins.VOCAB_SIZE, top_k=64, temperatures=(1.0,), values="fp32"
)


@dataclass(frozen=True)
class Deal:
    """One run of Ray Data alone."""

    in_flight: int
    ranks: int
    pause_s: float
    """Stands for the teacher: how long a block stays with its loader."""
    blocks: int
    skip: int
    """First blocks, which do not count."""
    num_loaders: int = 1

    @property
    def name(self) -> str:
        """Such as `deal-66x64`."""
        return f"deal-{self.in_flight}x{self.ranks}-{self.pause_s * 1000:.0f}ms"


DEALS = (
    Deal(in_flight=6, ranks=1, pause_s=0.6, blocks=120, skip=30),
    Deal(in_flight=10, ranks=4, pause_s=0.2, blocks=400, skip=120),
)


@dataclass(frozen=True)
class Pausing:
    """A teacher without a process: the same soft targets for every block, after a pause."""

    pause_s: float
    targets: pa.Table

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Pause, and answer."""
        await asyncio.sleep(self.pause_s)
        return self.targets


def pausing(pause_s: float) -> Pausing:
    """Soft targets for the rows of one block."""
    learned = [ROW_TOKENS - 1] * ROWS_A_BLOCK
    columns: dict[str, Any] = dict(standins.uniform_targets(learned, SPEC))
    columns["teacher_s"] = pa.array([pause_s] * ROWS_A_BLOCK, pa.float32())
    return Pausing(pause_s, pa.table(columns))


def dataset_of(deal: Deal, rows: Path) -> ray.data.Dataset:
    """raykd's own dataset over blocks of one step."""
    steps = deal.blocks // deal.ranks
    batch = ROWS_A_BLOCK * deal.ranks
    ordered = stream.OrderedStream(
        rows_directory=str(rows),
        order=RowOrder(open_rows(rows).num_rows, -(-steps * batch // NUM_ROWS), 0),
        layout_from=partial(_layout, steps, batch, deal.ranks),
        first_step=_first_step,
        score=pausing(deal.pause_s),
        targets=target_schema(SPEC),
        config=StreamConfig(num_loaders=deal.num_loaders, cpus_per_loader=0.1),
        requests_in_flight=deal.in_flight,
    )
    return ordered()


def _layout(steps: int, batch: int, ranks: int, first: int) -> BlockLayout:
    return BlockLayout(first, steps, batch, ranks)


def _first_step() -> int:
    return 0


class Consumers:
    """Ranks that ask for their next block as a rank does, and drop it; threads of this process."""

    def __init__(self, dataset: ray.data.Dataset, deal: Deal) -> None:
        parts = stream.DealInOrder(None).configure({"train": dataset}, deal.ranks, None, None)
        self._each = deal.blocks // deal.ranks
        self._parts = [part["train"] for part in parts]
        self.times: list[float] = []

    def run(self) -> None:
        """Ask until every rank has its share."""
        threads = [threading.Thread(target=self._ask, args=(one,)) for one in self._parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, part: Any) -> None:
        # The calls of Ray's iterator, without its threads: hundreds of these have to fit here.
        coordinator, rank = part._coord_actor, part._output_split_idx
        epoch = ray.get(coordinator.start_epoch.remote(rank))
        for _ in range(self._each):
            if ray.get(coordinator.get.remote(epoch, rank)) is None:
                return
            self.times.append(time.time())

    def end(self) -> None:
        """Leave the run."""
        ray.kill(self._parts[0]._coord_actor)


@contextmanager
def counting() -> Iterator[CpuSeries]:
    """CPU seconds of this process and all that it started, in a thread beside."""
    series, ended = CpuSeries(psutil.Process()), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            series.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield series
    finally:
        ended.set()
        thread.join()


def run_deal(deal: Deal, rows: Path) -> dict[str, Any]:
    """CPU seconds a block by role, and the rate."""
    began = time.time()
    with counting() as series:
        consumers = Consumers(dataset_of(deal, rows), deal)
        consumers.run()
        consumers.end()
    times = np.sort(consumers.times)
    start, stop = times[deal.skip], times[-1]
    blocks = len(times) - 1 - deal.skip
    return {
        "case": deal.name,
        **asdict(deal),
        "first_block_s": times[0] - began,
        "wall_s": stop - start,
        "blocks_counted": blocks,
        "blocks_s": blocks / (stop - start),
        "cpu_s": series.between(start, stop),
    }


def run_serve(replicas: int, block_s: float, steps: int, fill: int) -> dict[str, Any]:
    """The whole way, asleep: CPU seconds a block by role."""
    series: list[CpuSeries] = []
    with standins.own_ray() as root, counting() as one:
        series.append(one)
        job = standins.job_of(
            root,
            "scale",
            teacher={"replicas": replicas},
            train={"max_steps": fill + steps},
        )
        course = standins.train_asleep(
            job, standins.Sleep(block_s), standins.Sleep(block_s / replicas)
        )
    ends = [step.time for step in course.steps]
    start, stop = ends[fill - 1], ends[-1]
    return {
        "case": f"serve-{replicas}:1-{block_s * 1000:.0f}ms",
        "replicas": replicas,
        "block_s": block_s,
        "wall_s": stop - start,
        "blocks_counted": steps,
        "blocks_s": steps / (stop - start),
        "cpu_s": series[0].between(start, stop),
    }


def deals(which: tuple[Deal, ...]) -> list[dict[str, Any]]:
    """One after the other."""
    return [alone(deal) for deal in which]


def alone(deal: Deal) -> dict[str, Any]:
    """On a Ray of its own: a coordinator that is killed leaves its share of CPUs reserved."""
    with standins.own_ray() as root:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        rows = root / "rows"
        rows.mkdir(parents=True)
        standins.write_rows(rows, NUM_ROWS, ROW_TOKENS)
        result = run_deal(deal, rows)
    print(json.dumps(result), flush=True)
    return result


def run_polls(ranks: int, seconds: float) -> dict[str, Any]:
    """Ranks that wait for a block, each in a thread as in the coordinator; without Ray."""
    state: Any = SimpleNamespace(
        _exception=None,
        _finished=False,
        output_queue=OpBufferQueue(num_splits=ranks),
        _waiting_consumers_lock=threading.Lock(),
        _num_waiting_consumers=0,
    )

    def wait(rank: int) -> None:
        with suppress(StopIteration):
            OpState.get_output_blocking(state, rank)

    threads = [threading.Thread(target=wait, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    began, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    cpu, wall_s = time.process_time() - cpu, time.perf_counter() - began
    state._finished = True
    for thread in threads:
        thread.join()
    return {"case": f"polls-{ranks}", "ranks": ranks, "wall_s": wall_s, "poll_cpu_s": cpu}


def run_copy(num_bytes: int, seconds: float) -> dict[str, Any]:
    """A block copied into memory that is new, as a loader's answer is into the object store."""
    block, copies = np.ones(num_bytes, np.uint8), 0
    cpu, until = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        # An anonymous map, so that no copy finds the pages of the one before.
        with mmap.mmap(-1, num_bytes) as fresh:
            fresh.write(block)
        copies += 1
    cpu = time.process_time() - cpu
    return {"case": f"copy-{num_bytes >> 20}MiB", "byte_cpu_s": cpu / copies / num_bytes}


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "deal": lambda: deals(DEALS),
    "serve": lambda: [run_serve(4, 0.1, steps=400, fill=60)],
    "polls": lambda: [run_polls(ranks, 2.0) for ranks in (64, 256, 512)],
    "copy": lambda: [run_copy(size, 0.5) for size in (1 << 20, 16 << 20)],
}


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a case, by role."""
    table = Table(title="CPU milliseconds a block")
    for name in ("case", "blocks/s", "coordinator", "loader", "reader", "replica", "shard", "rank"):
        table.add_column(name, justify="left" if name == "case" else "right")
    table.add_column("raylet, gcs", justify="right")
    for one in results:
        per = one["blocks_counted"]
        table.add_row(
            one["case"],
            f"{one['blocks_s']:.1f}",
            *(
                f"{1000 * sum(one['cpu_s'].get(role, 0.0) for role in roles) / per:.2f}"
                for roles in (
                    ("ray::SplitCoordinator",),
                    ("ray::MapWorker",),
                    ("ray::ReadBlockIds", "ray::IDLE"),
                    ("ray::ServeReplica",),
                    ("ray::Shard",),
                    ("ray::RayTrainWorker",),
                    ("raylet", "gcs_server"),
                )
            ),
        )
    return table


def shown(results: list[dict[str, Any]]) -> Table | str:
    """A table of what was counted by role, or the figures themselves."""
    if all("cpu_s" in one for one in results):
        return table_of(results)
    return "\n".join(", ".join(f"{name} {value}" for name, value in one.items()) for one in results)


def kept() -> dict[str, Any]:
    """Figures of an earlier run."""
    file = record.RESULTS / "scale_costs.json"
    found: dict[str, Any] = json.loads(file.read_text())["results"] if file.exists() else {}
    return found


def main() -> None:
    """Measure the asked parts; figures of the others stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    arguments = parser.parse_args()
    console: Console = record.console()
    on, results = record.machine(), {} if arguments.no_write else kept()
    for part in arguments.parts:
        results[part] = PARTS[part]()
        if not arguments.no_write:
            console.print(f"written to {record.write('scale_costs', on, CONDITIONS, results)}")
        console.print(shown(results[part]), highlight=False)


if __name__ == "__main__":
    main()
