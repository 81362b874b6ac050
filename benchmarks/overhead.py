"""What does raykd cost beside the teacher's and the student's own work?

CPU seconds of every process of a run (driver, Ray's daemons, workers) between two steps, over those
of a plain single-process PyTorch loop that does the same teacher and student work on the same rows:
the quickstart's models, one torch thread each, bf16 with fp32 master weights on both sides.

Steady state: the quickstart's teacher is the faster side, so what may lie between the two is
capped (`stream.object_store_bytes`) and the counting starts when that is full; the teacher's work
is counted by the rows that it really scored in that time. Nothing is kept in a store, since the
plain loop keeps nothing. Rounds are repeated and the median one is written.
Two figures explain the ratio: CPU seconds by process, and the cost of the plain loop when its heap
keeps what it frees, as raykd's processes do (`raykd/models/heap.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import record
from rich.console import Console
from rich.table import Table

TARGET = 1.15
POLL_S = 0.25
PLAIN_WARM_UP = 2
"""Steps of the plain loop before its seconds count; it has no pipeline to fill."""
JOB = Path(__file__).parent.parent / "jobs" / "quickstart.yaml"
NAME = "benchmark-overhead"


def job_of(arguments: argparse.Namespace) -> Any:
    """The quickstart, training only, one thread a side."""
    from raykd.config.load import load_job

    return load_job(
        arguments.job,
        [
            f"name={NAME}",
            f"storage_path={arguments.storage}",
            f"train.max_steps={arguments.stop + arguments.more}",
            # More than the quickstart's 2: ZeRO and optimizer pass over all weights once a step,
            # whatever the batch; real steps have thousands of tokens.
            f"train.global_batch={arguments.batch}",
            "stream.steps_per_block=1",
            "soft_targets.store_mode=off",
            f"stream.object_store_bytes={arguments.lead_bytes}",
            "teacher.threads_per_shard=1",
            "student.threads_per_worker=1",
            "checkpoint.every_steps=null",
            "evaluation.every_steps=null",
            "evaluation.max_rows=1",
            "evaluation.sets={}",
        ],
    )


# --- raykd's side ---------------------------------------------------------------------------------


def run_raykd(arguments: argparse.Namespace) -> None:
    """Child process: the whole run, with parts that note their own CPU seconds."""
    from raykd.pipeline import cluster, distill
    from raykd.pipeline.teacher import Parts
    from raykd.student.engine import ZeroStudent
    from raykd.teacher.transformers_tp import TransformersEngine
    from raykd.telemetry.progress import Progress

    class NotingEngine(TransformersEngine):
        """Notes when each request ended, its rows and the CPU seconds in it."""

        def __init__(self, spec: Any, place: Any, *, log: Path) -> None:
            super().__init__(spec, place)
            self._log = log.open("a", buffering=1)

        def score(self, rows: Any, spec: Any) -> Any:
            began, cpu = time.time(), time.thread_time()
            answer = super().score(rows, spec)
            cpu = time.thread_time() - cpu
            self._log.write(f"{began} {time.time()} {rows.num_rows} {cpu}\n")
            return answer

    class NotingStudent(ZeroStudent):
        """Notes when each step ended and the CPU seconds in it."""

        def __init__(self, *given: Any, log: Path) -> None:
            super().__init__(*given)
            self._log = log.open("a", buffering=1)

        def train_step(self, rows: Any, step: int, wait_s: float, wish: Any) -> Any:
            began, cpu = time.time(), time.thread_time()
            result = super().train_step(rows, step, wait_s, wish)
            cpu = time.thread_time() - cpu
            self._log.write(f"{began} {time.time()} {rows.num_rows} {cpu}\n")
            return result

    logs = arguments.scratch.resolve()
    parts = Parts(
        engine_class=partial(NotingEngine, log=logs / "teacher.txt"),
        student_class=partial(NotingStudent, log=logs / "student.txt"),
    )
    job = job_of(arguments)
    with cluster.connect("local"), Progress(Console(), job.name) as progress:
        distill.distill(job, progress, resume=False, parts=parts)


@dataclass
class CpuSeries:
    """CPU seconds of a process and all that it started, over time, by role."""

    root: psutil.Process
    times: list[float] = field(default_factory=list)
    by_role: list[dict[str, float]] = field(default_factory=list)
    _used: dict[int, float] = field(default_factory=dict)
    _sums: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Add a moment: what each process used since the last look goes to its present role."""
        for process in (self.root, *self.root.children(recursive=True)):
            try:
                with process.oneshot():
                    used = process.cpu_times()
                    name = "driver" if process == self.root else role_of(process.cmdline())
            except psutil.Error:
                continue
            seconds = used.user + used.system
            new = seconds - self._used.get(process.pid, 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + new
            self._used[process.pid] = seconds
        self.times.append(time.time())
        self.by_role.append(dict(self._sums))

    def between(self, start: float, stop: float) -> dict[str, float]:
        """CPU seconds by role from one moment to another."""
        roles = sorted(set().union(*self.by_role))
        used = {}
        for role in roles:
            series = [moment.get(role, 0.0) for moment in self.by_role]
            used[role] = float(np.diff(np.interp([start, stop], self.times, series))[0])
        return used


def role_of(command: list[str]) -> str:
    """What a process does, from its command line."""
    first = command[0] if command else "?"
    if first.startswith("ray::"):
        return "ray::" + re.split(r"[.:#(]", first.removeprefix("ray::"))[0]
    for part in command[:3]:
        name = Path(part).name
        if name in ("raylet", "gcs_server", "dashboard.py", "log_monitor.py", "monitor.py"):
            return name
    return Path(first).name


def measure_raykd(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run it and count from the end of step `start` to the end of step `stop`."""
    from raykd.telemetry.metrics_file import read_metrics

    run = Path(arguments.storage).resolve() / NAME
    shutil.rmtree(run, ignore_errors=True)
    child = start_child("raykd", arguments)
    series = CpuSeries(psutil.Process(child.pid))
    while child.poll() is None:
        series.look()
        time.sleep(POLL_S)
    if child.returncode:
        raise SystemExit(f"raykd failed with exit code {child.returncode}")
    steps = {step.step: step for step in read_metrics(run / "metrics.jsonl")}
    start, stop = steps[arguments.start].time, steps[arguments.stop].time
    teacher_rows, teacher_s = work_between(arguments.scratch / "teacher.txt", start, stop)
    student_rows, student_s = work_between(arguments.scratch / "student.txt", start, stop)
    by_role = series.between(start, stop)
    return {
        "cpu_s": sum(by_role.values()),
        "wall_s": stop - start,
        "rows_scored": teacher_rows,
        "rows_learned": student_rows,
        "teacher_engine_cpu_s": teacher_s,
        "student_step_cpu_s": student_s,
        "by_process_cpu_s": dict(sorted(by_role.items(), key=lambda item: -item[1])),
        "losses": [steps[n].loss for n in range(1, arguments.stop + 1)],
    }


def work_between(log: Path, start: float, stop: float) -> tuple[float, float]:
    """Rows and CPU seconds of logged calls in a stretch of time; a part of a call counts so."""
    began, ended, rows, cpu = np.loadtxt(log, ndmin=2).T
    share = (np.minimum(ended, stop) - np.maximum(began, start)).clip(min=0) / (ended - began)
    return float((rows * share).sum()), float((cpu * share).sum())


# --- the plain side -------------------------------------------------------------------------------


def run_plain(arguments: argparse.Namespace) -> None:
    """Child process: the loop one would write by hand for these two models."""
    import torch
    from transformers import AutoModelForCausalLM

    from raykd.losses.fused import linear_distillation_loss
    from raykd.losses.targets import BucketTargets, LogitShape
    from raykd.models.batch import collate
    from raykd.models.head import head_logits, hidden_states
    from raykd.models.heap import keep_freed_memory
    from raykd.soft_targets.codec import TopKTargets
    from raykd.soft_targets.top_k import encode_top_k
    from raykd.student.module import loss_spec
    from raykd.student.zero import learning_rate

    torch.set_num_threads(1)
    if arguments.keep_heap:
        keep_freed_memory()
    job = job_of(arguments)
    run = Path(arguments.storage).resolve() / NAME
    teacher_directory = json.loads((arguments.scratch / "teacher.json").read_text())
    teacher = AutoModelForCausalLM.from_pretrained(teacher_directory, dtype=torch.bfloat16)
    teacher.requires_grad_(False).eval()
    student = AutoModelForCausalLM.from_pretrained(run / "untrained", dtype=torch.bfloat16)
    student.config.use_cache = False
    student.train()
    weights = [p for p in student.parameters() if p.requires_grad]
    masters = [p.detach().float().requires_grad_(True) for p in weights]
    config = job.train.optimizer
    optimizer = torch.optim.AdamW(
        masters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    vocab_size = int(teacher.config.vocab_size)

    @torch.inference_mode()
    def soft_targets(rows: Any) -> Any:
        batch = collate(rows)
        hidden_BTD = hidden_states(teacher, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        size, chunks = job.teacher.head_chunk_tokens, []
        for at in range(0, len(hidden_MD), size):
            logits_TV = head_logits(teacher, hidden_MD[at : at + size], vocab_size)
            labels = batch.label_ids_M[at : at + size]
            chunks.append(encode_top_k(logits_TV, labels, job.soft_targets.top_k, job.temperatures))
        targets = TopKTargets.concatenate(chunks)
        row_of = (batch.keep_M // batch.input_ids_BT.shape[1]).bincount(minlength=rows.num_rows)
        return targets.split(row_of.tolist())

    def learn(rows: Any, targets: Any, step: int) -> float:
        size, total = job.train.micro_batch, 0.0
        tokens = sum(part.num_tokens for part in targets)
        for at in range(0, rows.num_rows, size):
            batch = collate(rows.slice(at, size))
            hidden_BTD = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
            joined = TopKTargets.concatenate(targets[at : at + size])
            parts = linear_distillation_loss(
                hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M),
                student.get_output_embeddings().weight,
                None,
                batch.label_ids_M,
                BucketTargets(joined.ids_TK, joined.logprobs_TK, joined.log_tail_TN[:, -1]),
                loss_spec(job),
                shape=LogitShape(),
                vocab_size=vocab_size,
            )
            (parts.total / tokens).backward()
            total += parts.total.item()
        for master, weight in zip(masters, weights, strict=True):
            master.grad = weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, job.train.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.stop + arguments.more, config)
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)
        return total / tokens

    losses: list[float] = []
    teacher_s = student_s = 0.0
    total, wall = 0.0, time.perf_counter()
    for steps, rows in blocks(job, run, arguments.plain_steps):
        counts = steps[0] >= PLAIN_WARM_UP
        if counts and not total:
            total, wall = time.process_time(), time.perf_counter()
        cpu = time.process_time()
        targets = soft_targets(rows)
        scored = time.process_time()
        size = job.train.global_batch
        for at, step in enumerate(steps):
            part = slice(at * size, (at + 1) * size)
            losses.append(learn(rows.slice(at * size, size), targets[part], step))
        if counts:
            teacher_s += scored - cpu
            student_s += time.process_time() - scored
    counted = len(losses) - PLAIN_WARM_UP
    print(
        json.dumps(
            {
                "cpu_s": time.process_time() - total,
                "wall_s": time.perf_counter() - wall,
                "teacher_s_a_row": teacher_s / counted / job.train.global_batch,
                "student_s_a_row": student_s / counted / job.train.global_batch,
                "losses": losses,
            }
        )
    )


def blocks(job: Any, run: Path, num_steps: int) -> Iterator[tuple[list[int], Any]]:
    """The rows of a run's steps, as many steps at once as raykd puts into a block."""
    from raykd.data.order import RowOrder
    from raykd.data.prepare import open_rows

    rows = open_rows(run / "data" / "train")
    batch, each = job.train.global_batch, job.stream.steps_per_block
    order = RowOrder(rows.num_rows, job.train.epochs, job.seed, job.data.shuffle, None, batch)
    for first in range(0, num_steps, each):
        steps = list(range(first, min(first + each, num_steps)))
        yield steps, rows.take(order.source_rows(first * batch, (steps[-1] + 1) * batch))


def measure_plain(arguments: argparse.Namespace, *, keep_heap: bool) -> dict[str, Any]:
    """Run the plain loop, with the heap as glibc has it or as raykd does."""
    extra = ["--keep-heap"] if keep_heap else []
    child = start_child("plain", arguments, *extra, stdout=subprocess.PIPE)
    answer = child.communicate()[0]
    if child.returncode:
        raise SystemExit("the plain loop failed")
    told: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return told


# --- side by side ---------------------------------------------------------------------------------


def start_child(side: str, arguments: argparse.Namespace, *extra: str, **options: Any) -> Any:
    """This script again, for one side; with its own directory for Ray."""
    given = [f"--start={arguments.start}", f"--stop={arguments.stop}", f"--more={arguments.more}"]
    given += [f"--job={arguments.job}", f"--storage={arguments.storage}"]
    given += [f"--batch={arguments.batch}", f"--plain-steps={arguments.plain_steps}"]
    given += [f"--lead-bytes={arguments.lead_bytes}", f"--scratch={arguments.scratch}", *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(arguments.scratch)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, __file__, f"--side={side}", *given],
        env=environment,
        text=True,
        **options,
    )


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides, one after the other, and what follows from them."""
    from raykd.models.load import locate
    from raykd.pipeline.run_dir import RunDirectory

    raykd = measure_raykd(arguments)
    job = job_of(arguments)
    teacher = locate(job.teacher, "teacher", RunDirectory.of(job).model_cache)
    (arguments.scratch / "teacher.json").write_text(json.dumps(teacher.path))
    plain = measure_plain(arguments, keep_heap=False)
    kept = measure_plain(arguments, keep_heap=True)
    differences = [abs(a - b) for a, b in zip(raykd["losses"], plain["losses"], strict=False)]
    return {
        "raykd": raykd,
        "plain": plain,
        "plain_cpu_s": same_work(raykd, plain),
        "plain_with_kept_heap": kept,
        "plain_with_kept_heap_cpu_s": same_work(raykd, kept),
        "ratio": raykd["cpu_s"] / same_work(raykd, plain),
        "ratio_with_kept_heap": raykd["cpu_s"] / same_work(raykd, kept),
        "first_loss_difference": differences[0],
        "largest_loss_difference": max(differences),
    }


def same_work(raykd: dict[str, Any], plain: dict[str, Any]) -> float:
    """CPU seconds of the plain loop for the rows that raykd scored and learned from."""
    scored: float = raykd["rows_scored"] * plain["teacher_s_a_row"]
    learned: float = raykd["rows_learned"] * plain["student_s_a_row"]
    return scored + learned


def table_of(result: dict[str, Any]) -> Table:
    """CPU seconds, side by side."""
    raykd, plain, kept = result["raykd"], result["plain"], result["plain_with_kept_heap"]
    table = Table(title="CPU seconds of the same work")
    for name in ("", "raykd", "plain loop", "plain, heap kept"):
        table.add_column(name, justify="right" if name else "left")
    scored, learned = raykd["rows_scored"], raykd["rows_learned"]
    for label, own, key, rows in (
        (f"teacher, {scored:.0f} rows", raykd["teacher_engine_cpu_s"], "teacher_s_a_row", scored),
        (f"student, {learned:.0f} rows", raykd["student_step_cpu_s"], "student_s_a_row", learned),
    ):
        table.add_row(label, f"{own:.1f}", f"{plain[key] * rows:.1f}", f"{kept[key] * rows:.1f}")
    rest = raykd["cpu_s"] - raykd["teacher_engine_cpu_s"] - raykd["student_step_cpu_s"]
    table.add_row("everything else", f"{rest:.1f}", "", "")
    table.add_section()
    table.add_row(
        "in all",
        f"{raykd['cpu_s']:.1f}",
        f"{result['plain_cpu_s']:.1f}",
        f"{result['plain_with_kept_heap_cpu_s']:.1f}",
    )
    good = "green" if result["ratio"] <= TARGET else "yellow"
    ratio, kept_ratio = result["ratio"], result["ratio_with_kept_heap"]
    table.add_row("raykd over it", "", f"[{good}]{ratio:.3f}[/]", f"{kept_ratio:.3f}")
    return table


def processes_of(raykd: dict[str, Any]) -> Table:
    """Where raykd's seconds went."""
    table = Table(title=f"raykd by process, {raykd['wall_s']:.0f} s of wall time")
    table.add_column("process")
    table.add_column("CPU seconds", justify="right")
    table.add_column("of a core", justify="right")
    for name, seconds in raykd["by_process_cpu_s"].items():
        if seconds >= 0.005:
            table.add_row(name, f"{seconds:.2f}", f"{seconds / raykd['wall_s']:.1%}")
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=4, help="Count after this many steps.")
    parser.add_argument("--stop", type=int, default=12, help="Count to the end of this step.")
    parser.add_argument("--more", type=int, default=5, help="Steps after, so that none is last.")
    parser.add_argument("--batch", type=int, default=16, help="Rows in a step.")
    parser.add_argument("--plain-steps", type=int, default=7, help="Steps of the plain loop.")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds; the median one counts.")
    parser.add_argument(
        "--lead-bytes", type=int, default=4 << 20, help="Soft targets that may wait."
    )
    parser.add_argument("--job", type=Path, default=JOB, help="The job; the quickstart's models.")
    parser.add_argument("--storage", default="runs", help="Where runs and their models are kept.")
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    parser.add_argument("--side", choices=("raykd", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--keep-heap", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        (run_raykd if arguments.side == "raykd" else run_plain)(arguments)
        return
    console, on = record.console(), record.machine()
    rounds = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="rko-") as scratch:
            arguments.scratch = Path(scratch)
            rounds.append(compare(arguments))
    rounds.sort(key=lambda one: one["ratio"])
    result = rounds[(len(rounds) - 1) // 2]
    result["ratios_of_all_rounds"] = [one["ratio"] for one in rounds]
    console.print(processes_of(result["raykd"]), table_of(result))
    console.print(
        f"losses differ by {result['first_loss_difference']:.2g} at the first step and at most "
        f"{result['largest_loss_difference']:.2g} over all; ratios of all rounds: "
        + ", ".join(f"{ratio:.3f}" for ratio in result["ratios_of_all_rounds"])
    )
    if not arguments.no_write:
        conditions = {
            "job": arguments.job.name,
            "rows_a_step": arguments.batch,
            "steps": [arguments.start, arguments.stop],
            "lead_bytes": arguments.lead_bytes,
        }
        console.print(f"written to {record.write('overhead', on, conditions, result)}")


if __name__ == "__main__":
    main()
