"""What must be true before a run: each check says ok, or what to fix."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.errors import ModelError, RaykdError, ResourceError, StorageError
from raykd.pipeline import cluster, stages
from raykd.pipeline.plan import Demand, demands
from raykd.pipeline.run_dir import RunDirectory


@dataclass(frozen=True)
class Finding:
    """One line of `raykd check`."""

    ok: bool
    subject: str
    text: str


def check_resources(job: Job) -> Finding:
    """Sum what the job holds against what the cluster has.

    An autoscaling cluster counts with what its nodes have now; raise them or its minimum first.
    """
    have = cluster.totals()
    wanted = demands(job)
    cpus, gpus = sum(d.cpus for d in wanted), sum(d.gpus for d in wanted)
    text = f"{_sum(wanted, 'CPU')}; {_sum(wanted, 'GPU')}; the cluster has "
    text += f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
    short = [
        f"{name}s are {want - have.get(name, 0):g} short"
        for name, want in (("CPU", cpus), ("GPU", gpus))
        if want > have.get(name, 0) + 1e-9
    ]
    if short:
        fix = (
            "lower teacher.replicas, teacher.cpus_per_shard, student.num_workers or "
            "student.cpus_per_worker, or add nodes"
        )
        return Finding(False, "resources", f"{text}: {' and '.join(short)}; {fix}")
    return _check_packing(job, text)


def _check_packing(job: Job, text: str) -> Finding:
    """The shards of a replica share a node: some node must hold them all."""
    teacher = job.teacher
    if not job.needs_teacher_for_training:
        return Finding(True, "resources", text)
    cpus = teacher.tensor_parallel * teacher.cpus_per_shard
    gpus = teacher.tensor_parallel if teacher.device == "gpu" else 0
    fits = any(
        node["Resources"].get("CPU", 0) >= cpus and node["Resources"].get("GPU", 0) >= gpus
        for node in cluster.nodes()
    )
    if fits:
        return Finding(True, "resources", text)
    return Finding(
        False,
        "resources",
        f"{text}: no single node has the {cpus:g} CPUs and {gpus} GPUs of one teacher replica "
        f"(teacher.tensor_parallel: {teacher.tensor_parallel}); lower it or use larger nodes",
    )


def _sum(wanted: list[Demand], name: str) -> str:
    each = [(d.part, d.count, d.cpus_each if name == "CPU" else d.gpus_each) for d in wanted]
    total = sum(count * amount for _, count, amount in each)
    terms = [f"{count} {part} x {amount:g}" for part, count, amount in each if amount]
    return f"{name}: {' + '.join(terms)} = {total:g}" if terms else f"{name}: none"


def require_resources(job: Job) -> None:
    """Fail at once rather than wait for what is not there.

    Raises:
        ResourceError: Shows the sum.
    """
    finding = check_resources(job)
    if not finding.ok:
        raise ResourceError(finding.text)


def check_storage(job: Job) -> Finding:
    """Write a file here and read it on every node; then write one on each and read it here.

    A directory that only looks shared is found out.
    """
    root = Path(job.storage_path).expanduser().resolve()
    probe = root / f".raykd-probe-{uuid.uuid4().hex}"
    try:
        probe.mkdir(parents=True)
        (probe / "driver").write_text("raykd")
    except OSError as error:
        return Finding(
            False, "storage", f"{root} cannot be written ({error.strerror}); set storage_path"
        )
    try:
        answers = cluster.on_every_node(_probe_from_node, str(probe))
        bad = [
            f"{name}: {answer}"
            for name, answer in answers.items()
            if not isinstance(answer, str) or not (probe / answer).is_file()
        ]
    finally:
        _remove(probe)
    if bad:
        return Finding(
            False,
            "storage",
            f"{root} is not one directory seen by all nodes: {'; '.join(bad)}; mount shared "
            "storage there or set storage_path to where it is",
        )
    return Finding(True, "storage", f"{root} is written and read by {len(answers)} nodes")


def _probe_from_node(directory: str) -> str:
    """Runs on a node: read the driver's file, leave one's own."""
    if (Path(directory) / "driver").read_text() != "raykd":
        raise OSError("another file lies there")
    name = f"node-{uuid.uuid4().hex}"
    (Path(directory) / name).write_text("raykd")
    return name


def _remove(probe: Path) -> None:
    import shutil

    shutil.rmtree(probe, ignore_errors=True)


def require_storage(job: Job) -> None:
    """Fail before anything runs.

    Raises:
        StorageError: Says where it is not shared.
    """
    finding = check_storage(job)
    if not finding.ok:
        raise StorageError(finding.text)


def check_models(job: Job) -> list[Finding]:
    """Find the models, compare the tokenizers, see that the shapes divide."""
    run = RunDirectory.of(job)
    try:
        run.model_cache.mkdir(parents=True, exist_ok=True)
        models: Any = cluster.run_remote(stages.find_models, job, run)
    except RaykdError as error:
        return [Finding(False, "models", str(error))]
    return [
        Finding(True, "tokenizers", f"the same {models.num_tokens:,} ids on both sides"),
        Finding(
            True,
            "models",
            f"teacher {models.teacher.path}, vocabulary {models.teacher_vocab_size:,}; student "
            f"vocabulary {models.student_vocab_size:,}; shared {models.vocab_size:,}",
        ),
    ]


def check_memory(job: Job) -> Finding:
    """Weights, gradients and optimizer of the student against each node's memory (CPU only)."""
    run = RunDirectory.of(job)
    try:
        sizes = cluster.run_remote(stages.count_parameters, job, run)
    except RaykdError as error:
        return Finding(False, "memory", str(error))
    # Weights, gradients, two moments: 4 bytes each in fp32; bf16 has 2 + 2 and fp32 masters beside.
    student_bytes = sizes["student"] * 16
    teacher_bytes = sizes["teacher"] * (2 if job.teacher.dtype == "bf16" else 4)
    have = cluster.totals().get("memory", math.inf)
    total = teacher_bytes * job.teacher.replicas + student_bytes * (
        job.student.num_workers if job.student.zero_stage == 0 else 1
    )
    text = (
        f"teacher {sizes['teacher'] / 1e6:,.1f}M parameters, {teacher_bytes / 2**30:.2f} GiB a "
        f"replica; student {sizes['student'] / 1e6:,.1f}M, {student_bytes / 2**30:.2f} GiB of "
        "weights, gradients and optimizer; activations come on top"
    )
    if job.teacher.device == "cpu" and job.student.device == "cpu" and total > have:
        return Finding(False, "memory", f"{text}; the cluster has {have / 2**30:.1f} GiB")
    return Finding(True, "memory", text)


def check(job: Job) -> list[Finding]:
    """All checks of a job against the connected cluster."""
    findings = [check_storage(job), check_resources(job)]
    findings += check_corpora(job)
    findings += check_models(job)
    if all(f.ok for f in findings if f.subject in ("models", "storage")):
        findings.append(check_memory(job))
    return findings


def check_corpora(job: Job) -> list[Finding]:
    """Read the first document of every corpus."""
    corpora = {"data.corpus": job.data.corpus}
    corpora |= {f"evaluation.sets.{n}": c for n, c in job.evaluation.sets.items()}
    findings = []
    for name, corpus in corpora.items():
        try:
            place = cluster.run_remote(stages.first_document, corpus)
            findings.append(Finding(True, name, f"begins at {place}"))
        except RaykdError as error:
            findings.append(Finding(False, name, str(error)))
    return findings


__all__ = ["Finding", "ModelError", "check", "require_resources", "require_storage"]
