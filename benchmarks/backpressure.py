"""Does a slow side hold the other one back, within the bytes that it may take?

The real pipeline with stand-ins. A teacher that answers at once meets a student that sleeps over
each step: the object store is looked at ten times a second, and what it holds at most is set
beside `stream.object_store_bytes`, its default and a small one. Then a teacher that takes more than
half as long as a request may take meets a student that waits for every block: nothing may time out.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

# Before Ray is imported: a small object store, so that its quarter is reached in seconds.
os.environ.setdefault("RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION", "0.02")

import numpy as np
import ray
import record
from ray._private.internal_api import node_stats
from rich.table import Table
from standins import VOCAB_SIZE, Sleep, job_of, own_ray, train_asleep

from raykd.pipeline import nodes, plan
from raykd.pipeline.run_dir import RunDirectory
from raykd.soft_targets.spec import CodecSpec

LOOK_S = 0.1
ROWS, ROW_TOKENS = 8, 512


@dataclass(frozen=True)
class Case:
    """Which side is slow, and what may lie between."""

    name: str
    teacher_s: float
    student_s: float
    steps: int
    cap_bytes: int | None = None
    request_timeout_s: float = 300.0


CASES = [
    Case("default", 0.01, 0.15, steps=180),
    Case("16 MiB", 0.01, 0.15, steps=100, cap_bytes=16 << 20),
    Case("slow teacher", 3.0, 0.05, steps=8, request_timeout_s=5.0),
]


@dataclass
class Looks:
    """The object store over time; `__call__` runs beside the training."""

    used_bytes: list[int] = field(default_factory=list)
    spilled_bytes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, run: RunDirectory) -> None:
        """Look until the end."""
        (node,) = ray.nodes()
        while not self._ended.wait(LOOK_S):
            with self._looking:
                stats = node_stats(
                    node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
                ).store_stats
            self.used_bytes.append(stats.object_store_bytes_used)
            self.spilled_bytes = stats.spilled_bytes_total

    def end(self) -> None:
        """Look no more; Ray may end after this."""
        self._ended.set()
        with self._looking:
            pass


def run_case(case: Case) -> dict[str, Any]:
    """Train through the whole path once."""
    with own_ray() as root:
        job = job_of(
            root,
            "backpressure",
            data={"sequence_length_tokens": ROW_TOKENS},
            teacher={"request_timeout_s": case.request_timeout_s, "max_retries": 0},
            train={"max_steps": case.steps, "global_batch": ROWS, "micro_batch": ROWS},
            stream={"object_store_bytes": case.cap_bytes} if case.cap_bytes else {},
        )
        spec = CodecSpec("top_k", VOCAB_SIZE, (1.0,), top_k=64, values="fp32")
        stores, looks = nodes.object_stores(), Looks()
        cap = plan.object_store_bytes(job, spec, stores)
        course = train_asleep(job, Sleep(case.teacher_s), Sleep(case.student_s), looks)
        looks.end()
    used = np.array(looks.used_bytes) - looks.used_bytes[0]
    waited = sum(step.wait_s for step in course.steps)
    block = block_bytes(spec)
    return {
        **asdict(case),
        "object_store_bytes": stores[0],
        "cap_bytes": cap,
        "block_bytes": block,
        "requests_in_flight": plan.requests_in_flight(job),
        "most_used_bytes": int(used.max()),
        "ratio": float(used.max() / cap),
        "blocks_over_the_cap": float((used.max() - cap) / block),
        "spilled_bytes": int(looks.spilled_bytes),
        "used_mib_each_second": (used[:: round(1 / LOOK_S)] / 2**20).round(1).tolist(),
        "steps_done": len(course.steps),
        "student_wait_share": waited / sum(step.seconds for step in course.steps),
        "lead_blocks": lead_of(course),
    }


def block_bytes(spec: CodecSpec) -> int:
    """Of a block of these rows, as the loader makes it: two numbers a row beside its tokens."""
    a_token = 4 + 4 + 1 + spec.top_k * (2 + 4) + 4 * len(spec.temperatures) + 4
    return ROWS * (ROW_TOKENS * a_token + 8 + 8 + 4 + 4)


def lead_of(course: Any) -> int:
    """Most blocks that were scored and not yet learned from."""
    ends = np.array([step.time for step in course.steps])
    done = np.arange(1, len(course.requests) + 1)
    return int((done - np.searchsorted(ends, course.requests[:, 1])).max())


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a case."""
    table = Table(title="What lies between teacher and student")
    for name in (
        "case",
        "object store",
        "cap",
        "a block",
        "most used",
        "of the cap",
        "blocks over",
        "spilled",
        "lead",
        "student waits",
        "steps",
    ):
        table.add_column(name, justify="left" if name == "case" else "right")
    for one in results:
        good = one["blocks_over_the_cap"] <= 0 and not one["spilled_bytes"]
        mib = {name: one[f"{name}_bytes"] / 2**20 for name in ("object_store", "cap", "most_used")}
        table.add_row(
            one["name"],
            f"{mib['object_store']:.0f} MiB",
            f"{mib['cap']:.1f} MiB",
            f"{one['block_bytes'] / 2**20:.2f} MiB",
            f"{mib['most_used']:.1f} MiB",
            f"[{'green' if good else 'yellow'}]{one['ratio']:.3f}[/]",
            f"{one['blocks_over_the_cap']:.1f}",
            f"{one['spilled_bytes']:,} B",
            f"{one['lead_blocks']} blocks",
            f"{one['student_wait_share']:.1%}",
            f"{one['steps_done']} of {one['steps']}",
        )
    return table


def main() -> None:
    """Run the cases one after the other, each on a fresh Ray."""
    arguments = record.parser(__doc__, CASES).parse_args()
    console, on, results = record.console(), record.machine(), []
    for case in record.chosen(CASES, arguments):
        one = run_case(case)
        results.append(one)
        console.print(f"{case.name}: MiB each second {one['used_mib_each_second']}")
    console.print(table_of(results))
    if not arguments.no_write:
        conditions = {"rows_a_block": ROWS, "row_tokens": ROW_TOKENS, "codec": "top_k 64, fp32"}
        console.print(f"written to {record.write('backpressure', on, conditions, results)}")


if __name__ == "__main__":
    main()
