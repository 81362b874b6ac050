"""`raykd probe`: let the teacher speak on a few rows, compare codecs, recommend one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raykd import __version__
from raykd.config.job import Job
from raykd.config.loss import SERVED
from raykd.config.method import lacking
from raykd.data.prepare import open_rows
from raykd.errors import JobError, StorageError
from raykd.evaluation.probe_data import Probe
from raykd.models.load import ModelSource
from raykd.pipeline import cluster, resources, stages, waiting
from raykd.pipeline.models import Models, find_models, make_student
from raykd.pipeline.plan import Demand, replicas
from raykd.pipeline.run_dir import RunDirectory, forget
from raykd.pipeline.targets import heldout_spec, hidden_spec
from raykd.pipeline.teacher import Parts, start_teacher
from raykd.teacher.service import Scorer, TeacherClient
from raykd.telemetry.progress import Progress

PROBES = ".probes"
"""Beside the runs of a storage path."""
TIMED_ROWS = 8
"""Rows that the teacher's rate is measured on, with codec `top_k` as a run would ask."""


@dataclass(frozen=True)
class Size:
    """How much a probe looks at."""

    rows: int = 200
    compared_tokens: int = 2048
    """Learned tokens that gradients are compared on."""


def probe_directory(job: Job) -> RunDirectory:
    """Where a probe of this job keeps its rows and its answer."""
    storage = Path(job.storage_path).expanduser().resolve()
    return RunDirectory(storage / PROBES / job.name, storage)


def probe_job(job: Job, progress: Progress, size: Size) -> tuple[Path, Probe]:
    """Probe a job on the connected cluster, without running it.

    Args:
        job: The job; what its `soft_targets` say plays no part.
        progress: Shows it to a person.
        size: How much to look at.

    Returns:
        Where the answer lies as JSON, and the answer.

    Raises:
        RaykdError: Something is wrong with the job, or the teacher could not speak.
    """
    if job.teacher.engine == "vllm":
        raise JobError(
            "teacher.engine: vllm does not give hidden states, from which a probe makes every "
            "codec; probe with `--set teacher.engine=transformers`"
        )
    if job.classifier is not None and job.classifier.task == "masked":
        raise JobError(
            "classifier.task: masked: `raykd probe` compares no codecs of masked tokens; choose "
            "`soft_targets.codec` top_k or full"
        )
    if job.method == "classifier":
        raise JobError(
            "method: classifier has no codec to choose: its outputs travel whole; `raykd probe` is "
            "for `method: logits`"
        )
    if problem := lacking(job.teacher.engine, "score", "raykd probe"):
        raise JobError(problem)
    run = probe_directory(job)
    try:
        for directory in (run.data, run.model_cache):
            directory.mkdir(parents=True, exist_ok=True)
        # An earlier probe of this name may have been of another student.
        forget(run)
    except OSError as error:
        raise StorageError(f"{run.root}: cannot be written ({error.strerror})") from None
    student = job.student
    on_gpu = float(student.device == "gpu")
    comparison = Demand("comparison", 1, student.cpus_per_worker, on_gpu)
    resources.require(job, {"probing": [replicas(job), comparison]})
    with waiting.watched(job, progress.note):
        probe = _probe(job, run, progress, size)
    write_probe(run.probe, probe)
    return run.probe, probe


def _probe(job: Job, run: RunDirectory, progress: Progress, size: Size) -> Probe:
    """Start a teacher, have it score rows, compare codecs on them."""
    with progress.stage("models"):
        near = job.stream.labels
        models = cluster.run_remote(find_models, job, run, labels=near)
        initial = cluster.run_remote(make_student, job, run, models, labels=near)
    teacher = start_teacher(job, models, Parts())
    try:
        with progress.stage("prepare"):
            rows = run.data / "rows"
            cluster.run_remote(
                stages.prepare_other,
                job,
                models,
                job.data.corpus,
                rows,
                size.rows,
                cpus=0,
                labels=near,
            )
        with progress.stage("teacher"):
            teacher.wait(job, models)
        return measure(job, run, models, initial, teacher.client, rows, size, progress)
    finally:
        teacher.stop()


def write_probe(file: Path, probe: Probe) -> None:
    """Write the answer whole or not at all."""
    aside = file.with_suffix(".aside")
    aside.write_text(probe.model_dump_json(indent=2))
    aside.rename(file)


def read_probe(file: Path) -> Probe:
    """Read what `write_probe` wrote."""
    return Probe.model_validate_json(file.read_text())


def measure(
    job: Job,
    run: RunDirectory,
    models: Models,
    initial: ModelSource,
    client: TeacherClient,
    rows: Path,
    size: Size,
    progress: Progress,
) -> Probe:
    """Score rows, compare codecs on them, recommend one.

    Args:
        job: The job.
        run: Where the teacher's head and the scored rows go.
        models: The job's.
        initial: The student's first weights.
        client: The running teacher.
        rows: Prepared rows; the first `size.rows` are used.
        size: How much to look at.
        progress: Shows it.
    """
    scored = run.data / "probe.scored.arrow"
    scored.unlink(missing_ok=True)
    with progress.stage("probe: score"):
        run.teacher_head.unlink(missing_ok=True)
        client.write_head(run.teacher_head)
        spec = hidden_spec(job, models)
        ask, near = Scorer(client, spec), job.stream.labels
        cluster.run_remote(stages.score_set, ask, rows, scored, size.rows, cpus=0, labels=near)
        rate = cluster.run_remote(teacher_rate, job, models, client, rows, cpus=0, labels=near)
    with progress.stage("probe: compare"):
        probe: Probe = cluster.run_remote(
            compare,
            job,
            models,
            initial,
            run.teacher_head,
            scored,
            rate,
            size,
            cpus=job.student.cpus_per_worker,
            gpus=1.0 if job.student.device == "gpu" else 0.0,
            labels=job.student.labels,
        )
    return probe


def teacher_rate(job: Job, models: Models, client: TeacherClient, rows: Path) -> float:
    """Tokens a second of one replica, with the work of codec `top_k`; one task on the cluster."""
    prepared = open_rows(rows)
    table = prepared.take(np.arange(min(TIMED_ROWS, prepared.num_rows)))
    spec = heldout_spec(job, models)
    asyncio.run(client.score(table, spec))  # warms up
    answer = asyncio.run(client.score(table, spec))
    tokens = pc.sum(pc.list_value_length(table.column("input_ids"))).as_py()
    return float(tokens / max(1e-9, pc.sum(answer.column("teacher_s")).as_py()))


def compare(
    job: Job,
    models: Models,
    initial: ModelSource,
    head_file: Path,
    scored: Path,
    teacher_tokens_per_s: float,
    size: Size,
) -> Probe:
    """Everything that needs the student's first weights; one task on the cluster."""
    import torch

    from raykd.evaluation.compare import read_scored
    from raykd.evaluation.probe_candidates import candidates
    from raykd.evaluation.probe_student import student_tokens_per_s
    from raykd.evaluation.probe_teacher import ProbedRows, teacher_found
    from raykd.evaluation.probing import compare_codecs
    from raykd.evaluation.recommend import recommend
    from raykd.models.batch import collate
    from raykd.models.head import check_head, read_head
    from raykd.models.load import load_model
    from raykd.student.module import loss_spec
    from raykd.student.targets import to_targets

    torch.set_num_threads(job.student.threads)
    device = torch.device("cuda" if job.student.device == "gpu" else "cpu")
    spec = hidden_spec(job, models)
    rows = read_scored(scored)
    probed = ProbedRows(rows, spec, read_head(head_file, spec.vocab_size, device))
    student: Any = load_model(initial, job.student.dtype, "student.init")
    student.to(device)
    check_head(student, "student.init")
    teacher = teacher_found(probed)
    loss = loss_spec(job)
    compared, full_loss, codecs = compare_codecs(
        probed,
        student,
        loss,
        candidates(spec),
        size.compared_tokens,
        lambda table, codec, head: to_targets(table, codec, loss.temperature, head, device).targets,
        _refusals(job),
    )
    batch = collate(rows.slice(0, job.train.micro_batch)).to(device)
    student_rate = student_tokens_per_s(student.train(), batch, spec.vocab_size)
    return Probe(
        raykd_version=__version__,
        name=job.name,
        rows=rows.num_rows,
        tokens=_learned(rows),
        compared_tokens=compared,
        divergence=job.loss.divergences,
        temperature=loss.temperature,
        full_loss=full_loss,
        vocab_size=spec.vocab_size,
        teacher=teacher,
        codecs=codecs,
        teacher_tokens_per_s=teacher_tokens_per_s,
        student_tokens_per_s=student_rate,
        recommended=recommend(
            codecs, teacher, teacher_tokens_per_s, student_rate, job.student.num_workers
        ),
    )


def _refusals(job: Job) -> dict[str, str]:
    """Codecs that cannot serve the job's loss, with the reason."""
    refused = {
        codec: f"serves {', '.join(served)} only"
        for codec, served in SERVED.items()
        if not set(job.loss.divergences) <= set(served)
    }
    if job.loss.token_weights.needs_confidence:
        refused["hidden"] = "does not carry the teacher's confidence"
    return refused


def _learned(rows: pa.Table) -> int:
    return int(pc.sum(pc.list_flatten(rows.column("loss_mask").combine_chunks())).as_py())


def decided(job: Job, run: RunDirectory) -> Job:
    """The job with the codec that this run's probe recommended in the place of `auto`."""
    tree = job.model_dump(mode="json")
    kept = {key: tree["soft_targets"][key] for key in ("store", "store_mode")}
    tree["soft_targets"] = {**kept, **read_probe(run.probe).recommended.settings}
    return Job.model_validate(tree)
