"""How fast does a student learn from the store, beside one whose batches lie in its memory?

The real pipeline twice. First a teacher stand-in fills a store, as `store_mode: fill` does. Then,
with no teacher at all, a student learns from it: Ray Data's loaders read the store and rows are
dealt to the rank. Now and then the same student, in the same process, makes some steps from the
batches it had last, which it kept in memory; both kinds of steps alternate, since a machine's speed
moves. Seconds are from the end of one step to the end of the next: waiting, the loop and the step.

What may lie between store and student is capped, and the first steps of each stretch, which could
live from what was read ahead meanwhile, do not count.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import record
import torch
from rich.console import Console
from rich.table import Table
from standins import VOCAB_SIZE, Sleep, SleepingStudent, job_of, models_of, own_ray, write_rows

from raykd.config.job import Job
from raykd.models.load import ModelSource
from raykd.pipeline.run_dir import claim
from raykd.pipeline.story import Story
from raykd.pipeline.teacher import Parts, Teacher, start_teacher
from raykd.soft_targets.codec import encode, target_schema, to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StepResult, StudentSpec, Wish
from raykd.student.trainer import StudentClass
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.telemetry.progress import Progress

TARGET = 0.97
POOL_TOKENS = 8192
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class Case:
    """A student and its batches."""

    name: str
    sleep_s: float | None
    """None: a llama of 7.5 million weights under ZeRO."""
    rows: int
    row_tokens: int
    lead: int
    """Steps that may live from what was read ahead."""
    stretch: int
    """Steps that count, of either kind, before the other kind's turn."""
    rounds: int

    @property
    def steps(self) -> int:
        """Streamed steps in all; the last ones end the run."""
        return self.rounds * (self.lead + self.stretch) + self.lead


CASES = [
    Case("llama", None, 4, 256, lead=12, stretch=12, rounds=3),
    Case("asleep-400ms", 0.4, 16, 1024, lead=12, stretch=10, rounds=3),
    Case("asleep-100ms", 0.1, 8, 512, lead=14, stretch=30, rounds=4),
]


class PoolEngine:
    """A teacher that answers with tokens of a pool of real encodings; notes each request."""

    def __init__(
        self, spec: EngineSpec | None = None, place: ShardPlace | None = None, *, log: Path
    ) -> None:
        self._draw = np.random.default_rng(0)
        self._pool: dict[str, np.ndarray[Any, Any]] | None = None
        self._log = log.open("a", buffering=1)

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table:
        """Soft targets as wide, and as hard to compress, as those of a model."""
        learned = np.asarray([sum(mask) for mask in rows.column("loss_mask").to_pylist()])
        self._pool = self._pool or _encoded(spec)
        chosen = self._draw.integers(0, POOL_TOKENS, int(learned.sum()))
        columns = {}
        for field in target_schema(spec):
            if not pa.types.is_list(field.type):
                columns[field.name] = pa.array([spec.stamp] * len(learned), field.type)
                continue
            values = self._pool[field.name][chosen]
            ends = np.concatenate([[0], np.cumsum(learned)]) * values.shape[1]
            columns[field.name] = pa.ListArray.from_arrays(
                pa.array(ends.astype(np.int32)), pa.array(values.ravel())
            )
        self._log.write(f"{time.time()} {rows.num_rows}\n")
        seconds = pa.array(np.zeros(rows.num_rows, np.float32))
        return pa.table({**columns, "teacher_s": seconds})

    def describe(self) -> dict[str, object]:
        """Nothing is there."""
        return {"parameters": 0, "bytes": 0, "device": "none"}


def _encoded(spec: CodecSpec) -> dict[str, np.ndarray[Any, Any]]:
    """Every list column of `POOL_TOKENS` tokens, [tokens, values a token]."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(POOL_TOKENS, spec.vocab_size, generator=draw)
    labels = torch.randint(0, spec.vocab_size, (POOL_TOKENS,), generator=draw)
    keys = torch.arange(POOL_TOKENS)
    columns = to_columns([encode(logits, labels, keys, spec)], spec)
    return {
        name: column.flatten().to_numpy().reshape(POOL_TOKENS, -1)
        for name, column in columns.items()
        if pa.types.is_list(column.type)
    }


class FedBothWays:
    """A student that makes some steps from memory after each stretch of streamed ones."""

    def __init__(self, spec: StudentSpec, *, inner: StudentClass, case: Case, log: Path) -> None:
        self._inner, self._case = inner(spec), case
        self._log = log.open("a", buffering=1)
        self._kept: deque[pa.Table] = deque(maxlen=case.stretch)
        self._ended_s: float | None = None

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        """Learn from what came; after a stretch, from the stretch's batches once more."""
        result = self._timed("stream", rows, step, wait_s, wish)
        self._keep(rows)
        turn = self._case.lead + self._case.stretch
        if (step + 1) % turn == 0 and step + 1 <= self._case.rounds * turn:
            for batch in self._kept:
                self._timed("memory", batch, step, 0.0, Wish.GO_ON)
            self._ended_s = None
        return result

    def _keep(self, rows: pa.Table) -> None:
        """Copied: they lie in the object store, and would fill it; the time for it is left out."""
        began = time.perf_counter()
        self._kept.append(rows.take(pa.array(np.arange(rows.num_rows))))
        if self._ended_s is not None:
            self._ended_s += time.perf_counter() - began

    def _timed(self, kind: str, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        result = self._inner.train_step(rows, step, wait_s, wish)
        now = time.perf_counter()
        if self._ended_s is not None:
            self._log.write(f"{kind} {step} {now - self._ended_s} {wait_s}\n")
        self._ended_s = now
        return result

    def heldout(self, rows: pa.Table) -> Any:
        """As the student does."""
        return self._inner.heldout(rows)

    def save(self, directory: Path) -> None:
        """As the student does."""
        self._inner.save(directory)

    def load(self, directory: Path) -> None:
        """As the student does."""
        self._inner.load(directory)


def job_for(case: Case, root: Path, name: str, mode: str, lead_bytes: int) -> Job:
    """Fill or learn; both share one store, and what is said beside it must agree."""
    return job_of(
        root,
        name,
        data={"sequence_length_tokens": case.row_tokens},
        train={
            "max_steps": case.steps,
            "global_batch": case.rows,
            "micro_batch": case.rows,
            "optimizer": {"lr": 1e-5},
        },
        soft_targets={"values": "int8", "store_mode": mode, "store": str(root / "kept")},
        student={"dtype": "fp32", "threads_per_worker": 1, "zero_stage": 1},
        stream={"object_store_bytes": lead_bytes},
    )


def run_case(case: Case, lead_blocks: int) -> dict[str, Any]:
    """Fill a store, take the teacher away, learn from it in both ways."""
    with own_ray() as root:
        lead_bytes = int(lead_blocks * case.rows * case.row_tokens * 240)
        filling = job_for(case, root, "filling", "fill", lead_bytes)
        run, source = claim(filling, resume=False), ModelSource("nowhere")
        asked = run.logs / "requests.txt"
        write_rows(run.data / "train", case.steps * case.rows, case.row_tokens)
        parts = Parts(engine_class=partial(PoolEngine, log=asked))
        teacher = start_teacher(filling, models_of(source), parts)
        with _progress(run.logs) as progress:
            teacher.wait(filling, models_of(source))
            Story(filling, run, models_of(source), source, progress, parts, []).fill(teacher)
        num_asked = _lines(asked)
        learning = job_for(case, root, "learning", "only", lead_bytes)
        again, log = claim(learning, resume=False), run.logs / "steps.txt"
        write_rows(again.data / "train", case.steps * case.rows, case.row_tokens)
        student = partial(FedBothWays, inner=_student(case, root), case=case, log=log)
        first = ModelSource(str(_llama(root))) if case.sleep_s is None else source
        with _progress(again.logs) as progress:
            parts = Parts(student_class=student)
            story = Story(learning, again, models_of(source), first, progress, parts, [])
            story.train(Teacher(None), {})
        found = measured(case, log)
        return {
            **asdict(case),
            **found,
            "teacher_requests_to_fill": num_asked,
            "teacher_requests_to_learn": _lines(asked) - num_asked,
        }


def _progress(logs: Path) -> Progress:
    return Progress(Console(file=(logs / "progress.txt").open("w")), "second epoch")


def _lines(file: Path) -> int:
    return file.read_text().count("\n")


def _student(case: Case, root: Path) -> StudentClass:
    if case.sleep_s is None:
        return ZeroStudent
    return partial(SleepingStudent, sleep=Sleep(case.sleep_s))


def _llama(root: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**LLAMA)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llama")
    return root / "llama"


def measured(case: Case, log: Path) -> dict[str, Any]:
    """Medians of the steps that count."""
    turn, seconds, waits = case.lead + case.stretch, {"stream": [], "memory": []}, []
    ratios: dict[int, dict[str, list[float]]] = {}
    for line in log.read_text().splitlines():
        kind, step, took, wait = line.split()
        if kind == "stream" and not case.lead <= int(step) % turn:
            continue
        if int(step) >= case.rounds * turn:
            continue
        seconds[kind].append(float(took))
        each = ratios.setdefault(int(step) // turn, {"stream": [], "memory": []})
        each[kind].append(float(took))
        if kind == "stream":
            waits.append(float(wait))
    medians = {kind: float(np.median(found)) for kind, found in seconds.items()}
    means = {kind: float(np.mean(found)) for kind, found in seconds.items()}
    return {
        "stream_s": medians["stream"],
        "memory_s": medians["memory"],
        "ratio": medians["memory"] / medians["stream"],
        "ratio_of_means": means["memory"] / means["stream"],
        "ratios_of_rounds": [
            float(np.median(each["memory"]) / np.median(each["stream"])) for each in ratios.values()
        ],
        "wait_share": float(np.sum(waits) / np.sum(seconds["stream"])),
        "counted_steps": {kind: len(found) for kind, found in seconds.items()},
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a student."""
    table = Table(title="A step, fed from the store and fed from memory")
    for name in (
        "student",
        "tokens a step",
        "from the store",
        "from memory",
        "speed",
        "by means",
        "waits",
        "teacher asked",
    ):
        table.add_column(name, justify="left" if name == "student" else "right")
    for one in results:
        good = one["ratio"] >= TARGET
        table.add_row(
            one["name"],
            f"{one['rows'] * one['row_tokens']:,}",
            f"{1000 * one['stream_s']:.1f} ms",
            f"{1000 * one['memory_s']:.1f} ms",
            f"[{'green' if good else 'yellow'}]{one['ratio']:.3f}[/]",
            f"{one['ratio_of_means']:.3f}",
            f"{one['wait_share']:.1%}",
            f"{one['teacher_requests_to_learn']} (filling: {one['teacher_requests_to_fill']})",
        )
    return table


def main() -> None:
    """Run the cases one after the other, each on a fresh Ray."""
    parser = record.parser(__doc__, CASES)
    parser.add_argument("--lead-blocks", type=int, default=8, help="Blocks that may lie between.")
    arguments = parser.parse_args()
    console, on, results = record.console(), record.machine(), []
    for case in record.chosen(CASES, arguments):
        one = run_case(case, arguments.lead_blocks)
        results.append(one)
        rounds = ", ".join(f"{ratio:.3f}" for ratio in one["ratios_of_rounds"])
        console.print(f"{case.name:16} {one['ratio']:.3f}; by rounds {rounds}", highlight=False)
    console.print(table_of(results))
    if not arguments.no_write:
        conditions = {"lead_blocks": arguments.lead_blocks, "codec": "top_k 64, int8"}
        console.print(f"written to {record.write('second_epoch', on, conditions, results)}")


if __name__ == "__main__":
    main()
