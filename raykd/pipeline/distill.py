"""The story of a run, from one job file to a distilled student and a report."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.data.layout import BlockLayout
from raykd.data.order import RowOrder
from raykd.data.prepare import open_rows
from raykd.data.stream import DealInOrder, OrderedStream
from raykd.errors import Interrupted, RaykdError, RunError
from raykd.evaluation.probe_table import as_yaml
from raykd.evaluation.report import write_report
from raykd.evaluation.report_data import ModelFacts, Report
from raykd.models.load import ModelSource
from raykd.pipeline import cluster, plan, preflight, probe, stages
from raykd.pipeline.anchor import anchored
from raykd.pipeline.outcome import run_report, write_figures
from raykd.pipeline.run_dir import RunDirectory, claim
from raykd.pipeline.targets import heldout_spec, training_spec
from raykd.pipeline.teacher import Parts, Teacher, start_teacher
from raykd.soft_targets.codec import target_schema
from raykd.student.engine import StudentSpec
from raykd.student.trainer import StudentRun, train
from raykd.teacher.service import Scorer
from raykd.telemetry.metrics import MetricsTail
from raykd.telemetry.progress import Progress

POLL_S = 0.5


def distill(job: Job, progress: Progress, *, resume: bool, parts: Parts = Parts()) -> Report:
    """Run a job on the connected cluster.

    Args:
        job: What to do.
        progress: Shows it to a person.
        resume: Go on with the run that is there.
        parts: Stand-ins for teacher and student.

    Returns:
        The report, which also lies in the run directory.

    Raises:
        RaykdError: Something is wrong with the job, or the run could not go on.
        Interrupted: A person stopped it; a checkpoint was saved.
    """
    job = anchored(job, cluster.works_in_copy())
    run = claim(job, resume)
    started = now()
    try:
        with progress.stage("check"):
            preflight.require(job)
        with progress.stage("models"):
            models = cluster.run_remote(stages.find_models, job, run)
            initial = cluster.run_remote(stages.make_student, job, run, models)
        teacher = start_teacher(job, models, parts)
        try:
            data, targets = _prepare(job, run, models, teacher, progress)
            if job.soft_targets.codec == "auto" and job.needs_teacher_for_training:
                job = _decide(job, run, models, initial, teacher, progress)
            if not job.needs_teacher_for_training:
                teacher.stop()
            _train(job, run, models, initial, targets, teacher, progress, parts)
        finally:
            teacher.stop()
        report = _conclude(
            job, run, models, initial, teacher.facts, data, targets, progress, started
        )
    except RaykdError:
        raise
    except Exception as error:
        log = run.logs / "error.txt"
        log.write_text("".join(traceback.format_exception(error)))
        raise RunError(f"{type(error).__name__}: {error} (traceback in {log})") from error
    return report


def _prepare(
    job: Job,
    run: RunDirectory,
    models: stages.Models,
    teacher: Teacher,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Rows, and the teacher's word on the held-out ones; rows are made while it starts."""
    with progress.stage("prepare"):
        data = cluster.run_remote(stages.prepare_rows, job, run, models, cpus=0)
    for name, one in data.items():
        progress.note(f"{name}: {one['sentence']}")
    with progress.stage("teacher"):
        teacher.wait(job, models)
    targets = {name: run.targets(name) for name in data if name != "train"}
    spec = heldout_spec(job, models)
    with progress.stage("held-out"):
        for name, file in targets.items():
            cluster.run_remote(
                stages.score_set, teacher.client, run.data / name, spec, file, cpus=0
            )
    return data, targets


def _decide(
    job: Job,
    run: RunDirectory,
    models: stages.Models,
    initial: ModelSource,
    teacher: Teacher,
    progress: Progress,
) -> Job:
    """The job with a codec in the place of `auto`: what a probe recommends, once and for all."""
    if not run.probe.is_file():
        rows = run.data / "train"
        found = probe.measure(
            job, run, models, initial, teacher.client, rows, probe.Size(), progress
        )
        probe.write_probe(run.probe, found)
    best = probe.read_probe(run.probe).recommended
    progress.note(f"codec: auto is {as_yaml(best)}: {best.codec_reason} (all of it: {run.probe})")
    return probe.decided(job, run)


def _train(
    job: Job,
    run: RunDirectory,
    models: stages.Models,
    initial: ModelSource,
    targets: dict[str, Path],
    teacher: Teacher,
    progress: Progress,
    parts: Parts,
) -> None:
    """Stream rows through the teacher into the student group until the last step."""
    rows = open_rows(run.data / "train")
    steps = plan.num_steps(job, rows.num_rows)
    order = RowOrder(
        num_rows=rows.num_rows,
        epochs=job.train.epochs,
        seed=job.seed,
        shuffle=job.data.shuffle,
        lengths=rows.lengths if job.data.packing == "pad" else None,
        global_batch=job.train.global_batch,
    )
    layout_from = partial(
        BlockLayout,
        last_step=steps,
        global_batch=job.train.global_batch,
        num_ranks=job.student.num_workers,
        steps_per_block=job.stream.steps_per_block,
    )
    every = job.evaluation.every_steps
    spec = training_spec(job, models)
    needs_head = job.needs_teacher_for_training and spec.source == "hidden"
    if needs_head and not run.teacher_head.is_file():
        teacher.client.write_head(run.teacher_head)
    student = StudentRun(
        student=StudentSpec(
            job=job,
            source=initial,
            num_steps=steps,
            targets=spec,
            heldout=heldout_spec(job, models),
            head_file=run.teacher_head if needs_head else None,
        ),
        rows_an_epoch=rows.num_rows,
        directory=str(run.root),
        heldout_file=str(targets["heldout"]) if every else None,
        layout_from=layout_from,
        student_class=parts.student_class,
    )
    stream = OrderedStream(
        rows_directory=str(run.data / "train"),
        order=order,
        layout_from=layout_from,
        first_step=student.first_step,
        score=Scorer(teacher.client, spec) if teacher.is_running else None,
        targets=target_schema(spec),
        config=job.stream,
        requests_in_flight=plan.requests_in_flight(job),
    )
    deal = DealInOrder(job.stream.object_store_bytes)
    done = student.first_step()
    if done >= steps:
        progress.note(f"all {steps} steps were done before")
        return
    if done:
        progress.note(f"going on after step {done}, row {done * job.train.global_batch}")
    with progress.stage("train", total=steps):
        done = _watch(run, progress, partial(train, student, stream, deal), done)
    if done < steps:
        raise Interrupted(
            f"stopped after step {done} of {steps}; checkpoint saved. Go on with --resume"
        )


def _watch(run: RunDirectory, progress: Progress, work: Callable[[], int], first_step: int) -> int:
    """Run the training in a thread and show its steps; Ctrl-C asks the ranks to save and end."""
    outcome: list[int] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    tail = MetricsTail(run.metrics)
    with _interrupts_as_stop(run, progress):
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(timeout=POLL_S)
            progress.update([m for m in tail.poll() if m.step > first_step])
    if failure:
        raise failure[0]
    return outcome[0]


@contextmanager
def _interrupts_as_stop(run: RunDirectory, progress: Progress) -> Iterator[None]:
    """SIGINT and SIGTERM leave a stop file for rank 0; a second one ends at once."""

    def ask(number: int, _: Any) -> None:
        if run.stop_file.exists():
            raise Interrupted("stopped at once; go on from the last checkpoint with --resume")
        run.stop_file.touch()
        progress.note("stopping after this step, with a checkpoint; once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(
    job: Job,
    run: RunDirectory,
    models: stages.Models,
    initial: ModelSource,
    teacher: ModelFacts,
    data: dict[str, Any],
    targets: dict[str, Path],
    progress: Progress,
    started: str,
) -> Report:
    """Export, measure, report."""
    cpus = job.student.cpus_per_worker
    gpus = 1.0 if job.student.device == "gpu" else 0.0
    with progress.stage("export"):
        cluster.run_remote(stages.export_student, job, run, models, initial, run.student, cpus=cpus)
    with progress.stage("evaluate"):
        measured = cluster.run_remote(
            stages.measure, job, models, initial, run.student, targets, cpus=cpus, gpus=gpus
        )
    report = run_report(job, run, teacher, data, measured, progress.stages, started, now())
    write_report(run.root, report)
    write_figures(run.student, report)
    return report


def now() -> str:
    """The time, for reports."""
    return datetime.now(UTC).isoformat(timespec="seconds")
