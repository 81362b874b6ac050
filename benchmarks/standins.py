"""Stand-ins for models, and the real path between them: rows through Data, Serve and Train.

Everything but the two models is raykd's own code. The teacher sleeps for as long as a request
should take and answers with soft targets of the right shape; the student sleeps for as long as a
step should take.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch.distributed as dist
from ray import cloudpickle
from rich.console import Console

from raykd.config.job import Job
from raykd.config.load import parse_job
from raykd.data.pack import PackedRow
from raykd.data.rows import RowWriter
from raykd.losses.heldout import HeldoutSums
from raykd.models.load import ModelSource
from raykd.pipeline import cluster
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory, claim
from raykd.pipeline.story import Story
from raykd.pipeline.teacher import Parts, start_teacher
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.student.protocol import StepResult, StudentSpec, Wish
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.telemetry.metrics import StepMetrics
from raykd.telemetry.metrics_file import read_metrics
from raykd.telemetry.progress import Progress

VOCAB_SIZE = 1000


@dataclass(frozen=True)
class Sleep:
    """How long something sleeps each time: always `mean_s`, or lognormal around it."""

    mean_s: float
    cv: float = 0.0
    """Standard deviation over mean."""

    def draws(self, seed: int) -> Iterator[float]:
        """An endless series of seconds."""
        generator = np.random.default_rng(seed)
        sigma = float(np.sqrt(np.log1p(self.cv**2)))
        while True:
            yield self.mean_s * float(np.exp(generator.normal(-(sigma**2) / 2, sigma)))


class SleepingEngine:
    """A teacher that sleeps and says the same of every token; notes when each request ran."""

    def __init__(self, spec: EngineSpec, place: ShardPlace, *, sleep: Sleep, log: Path) -> None:
        self._draws = sleep.draws(int.from_bytes(os.urandom(8), "little"))
        self._log = log.open("a", buffering=1)
        self._columns: dict[tuple[Any, ...], dict[str, pa.Array]] = {}

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table:
        """Soft targets of the right shape, after a nap."""
        began, started = time.time(), time.perf_counter()
        learned = pc.list_value_length(rows.column("loss_mask")).to_pylist()
        key = (spec, *learned)
        if key not in self._columns:
            self._columns[key] = uniform_targets(learned, spec)
        asleep = next(self._draws) - (time.perf_counter() - started)
        time.sleep(max(0.0, asleep))
        each = (time.perf_counter() - started) / rows.num_rows
        seconds = pa.array([each] * rows.num_rows, pa.float32())
        self._log.write(f"{began} {time.time()}\n")
        return pa.table({**self._columns[key], "teacher_s": seconds})

    def describe(self) -> dict[str, object]:
        """Nothing is there."""
        return {"parameters": 0, "bytes": 0, "device": "none"}


def uniform_targets(learned: list[int], spec: CodecSpec) -> dict[str, pa.Array]:
    """Columns of codec `top_k` in full width: every id as likely as any other."""
    num_tokens, logprob = np.asarray(learned), -float(np.log(spec.vocab_size))
    tails = [np.log(spec.vocab_size - spec.top_k) + logprob / t for t in spec.temperatures]
    total = int(num_tokens.sum())
    schema = target_schema(spec)
    ids = np.arange(spec.top_k, dtype=schema.field("target_ids").type.value_type.to_pandas_dtype())
    columns = {
        "target_ids": lists(np.tile(ids, total), num_tokens),
        "target_logprobs": lists(np.full(total * spec.top_k, logprob, np.float32), num_tokens),
        "target_log_tail": lists(np.tile(np.float32(tails), total), num_tokens),
        "label_logprobs": lists(np.full(total, logprob, np.float32), num_tokens),
        "target_stamp": pa.array([spec.stamp] * len(learned), pa.uint32()),
    }
    return {name: columns[name] for name in schema.names}


def lists(values: Any, num_tokens: Any) -> pa.ListArray:
    """Values laid out flat to one list a row; a row has its share by its tokens."""
    each = len(values) // max(1, int(num_tokens.sum()))
    offsets = np.concatenate([[0], np.cumsum(num_tokens * each)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


class SleepingStudent:
    """A student that sleeps; its `loss` is the seconds it slept."""

    def __init__(self, spec: StudentSpec, *, sleep: Sleep) -> None:
        self._draws = sleep.draws(spec.job.seed)

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        """Sleep once; the ranks learn of each other's wish as in a real step."""
        wished = _most(float(wish))
        started = time.perf_counter()
        time.sleep(next(self._draws))
        slept = time.perf_counter() - started
        tokens = len(pc.list_flatten(rows.column("input_ids")))
        return StepResult(
            tokens=tokens,
            tokens_seen=tokens,
            loss=slept,
            divergence=0.0,
            cross_entropy=0.0,
            lr=0.0,
            grad_norm=0.0,
            wait_s=_most(wait_s),
            teacher_s=sum(rows.column("teacher_s").to_pylist()),
            wish=Wish(int(wished)),
        )

    def heldout(self, rows: pa.Table | None) -> HeldoutSums:
        """Nothing to measure."""
        return HeldoutSums(tokens=1.0)

    def save(self, directory: Path) -> None:
        """Nothing to keep."""

    def load(self, directory: Path) -> None:
        """Nothing to load."""


def _most(value: float) -> float:
    import torch

    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor.item())


def job_of(storage_path: Path, name: str, **sections: Any) -> Job:
    """A job for stand-ins on this machine; `sections` are merged over it, one level deep."""
    tree: dict[str, Any] = {
        "name": name,
        "storage_path": str(storage_path),
        "data": {"corpus": {"source": "synthetic"}, "sequence_length_tokens": 256},
        "teacher": {"model": "sleeping", "device": "cpu", "cpus_per_shard": 0.1},
        "student": {
            "init": {"start": "config", "config": {}},
            "device": "cpu",
            "cpus_per_worker": 0.25,
        },
        "train": {"global_batch": 2, "micro_batch": 2},
        "soft_targets": {"values": "fp32", "store_mode": "off"},
    }
    for section, fields in sections.items():
        tree[section] = {**tree.get(section, {}), **fields}
    return parse_job(tree, {}, "benchmark")


def write_rows(directory: Path, num_rows: int, num_tokens: int) -> None:
    """Prepared rows of random ids, every token but the last learned from."""
    generator = np.random.default_rng(0)
    mask = np.ones(num_tokens, np.uint8)
    mask[-1] = 0
    writer = RowWriter(directory, pad_id=0)
    for _ in range(num_rows):
        ids = generator.integers(0, VOCAB_SIZE, num_tokens, dtype=np.int32)
        writer.add(PackedRow(ids, np.arange(num_tokens, dtype=np.int32), mask, num_tokens))
    writer.close()


def models_of(source: ModelSource) -> Models:
    """What a run knows of models that are not there."""
    return Models(
        teacher=source,
        pretrained=None,
        num_tokens=VOCAB_SIZE,
        vocab_size=VOCAB_SIZE,
        teacher_vocab_size=VOCAB_SIZE,
        teacher_hidden_size=1,
        teacher_identity="sleeping",
        tokenizer_identity="sleeping",
        student_vocab_size=VOCAB_SIZE,
        pad_id=0,
    )


@dataclass(frozen=True)
class Course:
    """How a run went."""

    steps: list[StepMetrics]
    requests: np.ndarray[Any, Any]
    """[n, 2]: when each request began and ended at its replica, Unix seconds, by their ends."""


def train_asleep(
    job: Job, teacher: Sleep, student: Sleep, during: Callable[[RunDirectory], None] | None = None
) -> Course:
    """Run a job's training stage with stand-ins on the connected cluster.

    Args:
        job: The job.
        teacher: How long a request takes.
        student: How long a step takes.
        during: Called in a thread of its own when the training begins.
    """
    run = claim(job, resume=False)
    steps = job.train.max_steps
    assert steps is not None
    write_rows(run.data / "train", steps * job.train.global_batch, job.data.sequence_length_tokens)
    parts = Parts(
        engine_class=partial(SleepingEngine, sleep=teacher, log=run.logs / "requests.txt"),
        student_class=partial(SleepingStudent, sleep=student),
    )
    source = ModelSource("sleeping")
    models = models_of(source)
    progress = Progress(Console(file=(run.logs / "progress.txt").open("w")), job.name)
    service = start_teacher(job, models, parts)
    try:
        service.wait(job, models)
        if during is not None:
            threading.Thread(target=during, args=(run,), daemon=True).start()
        Story(job, run, models, source, progress, parts, []).train(service, {})
    finally:
        service.stop()
        progress.close()
    requests = np.loadtxt(run.logs / "requests.txt", ndmin=2)
    return Course(read_metrics(run.metrics), requests[np.argsort(requests[:, 1])])


@contextmanager
def own_ray() -> Iterator[Path]:
    """A Ray of this process's own, as `raykd run` starts one; yields a directory for runs."""
    root = Path(tempfile.mkdtemp(prefix="rkb-"))
    os.environ["RAY_TMPDIR"] = str(root / "ray")
    os.environ.pop("RAY_ADDRESS", None)
    (root / "ray").mkdir()
    # Workers do not have this directory on their path.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with cluster.connect("local"):
            yield root / "runs"
    finally:
        shutil.rmtree(root, ignore_errors=True)
