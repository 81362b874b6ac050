"""What must be true before a run: each check says ok, or what to fix."""

from __future__ import annotations

import math
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.errors import JobError, RaykdError, ResourceError, StorageError
from raykd.generation import requirements
from raykd.pipeline import behind_endpoint, capacity, cluster, live, nodes, resources, stages
from raykd.pipeline.finding import Finding
from raykd.pipeline.models import count_parameters, find_models
from raykd.pipeline.plan import phases, with_choosing
from raykd.pipeline.run_dir import RunDirectory


def check_resources(job: Job) -> Finding:
    """Sum what the job holds against what the cluster has."""
    short, text = resources.shortage(job, with_choosing(job, phases(job)))
    return Finding(not short, "resources", text)


def check_trackers(job: Job) -> Finding:
    """Are the trackers that the job asks for installed?"""
    tracking = job.tracking
    asked = {
        "tensorboard": tracking.tensorboard,
        "mlflow": tracking.mlflow is not None,
        "wandb": tracking.wandb is not None,
    }
    missing = [name for name, on in asked.items() if on and find_spec(name) is None]
    if missing:
        fields = ", ".join(f"tracking.{name}" for name in missing)
        return Finding(False, "trackers", f"{fields}: not installed; pip install 'raykd[trackers]'")
    return Finding(True, "trackers", ", ".join(n for n, on in asked.items() if on) or "none")


def check_filters(job: Job) -> Finding:
    """Are the packages installed that filters of generated text need?"""
    problem = None if job.generation is None else requirements.missing(job.generation)
    return Finding(problem is None, "filters", problem or "all that the job names can run")


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
        answers = nodes.on_every_node(_probe_from_node, str(probe))
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


def check_nodes(job: Job) -> list[Finding]:
    """What every node says of itself: versions, clock, labels; and the head."""
    seen = live.look()
    return [
        live.check_versions(seen, live.facts_here().versions),
        live.check_clocks(seen),
        *live.check_head(seen),
        live.check_roles(job, seen, capacity.growth()),
    ]


def require(job: Job, *, with_teacher: bool = True) -> list[str]:
    """What a run looks at before anything of it runs.

    Args:
        job: The job.
        with_teacher: False leaves the teacher out of the sum, where soft targets may all be kept.

    Returns:
        What the person should know, though the run can go on.

    Raises:
        ResourceError: The cluster has too little, shows the sum; or nodes have other versions.
        StorageError: Says where the storage is not shared.
        JobError: A tracker is not installed.
    """
    held = phases(job, with_teacher=with_teacher)
    resources.require(job, with_choosing(job, held))
    if not (finding := check_storage(job)).ok:
        raise StorageError(finding.text)
    for finding in (check_trackers(job), check_filters(job)):
        if not finding.ok:
            raise JobError(finding.text)
    behind_endpoint.require(job)
    seen = live.look()
    if not (finding := live.check_versions(seen, live.facts_here().versions)).ok:
        raise ResourceError(finding.text)
    advice = [live.check_clocks(seen), *live.check_head(seen)]
    return [f"{each.subject}: {each.text}" for each in advice if not each.ok]


def check_models(job: Job) -> list[Finding]:
    """Find the models, compare the tokenizers, see that the shapes divide."""
    run = RunDirectory.of(job)
    try:
        run.model_cache.mkdir(parents=True, exist_ok=True)
        models: Any = cluster.run_remote(find_models, job, run, labels=job.stream.labels)
    except RaykdError as error:
        return [Finding(False, "models", str(error))]
    return [
        Finding(True, "tokenizers", f"the same {models.num_tokens:,} ids on both sides"),
        Finding(
            True,
            "models",
            behind_endpoint.models_in_words(job, models)
            or f"teacher {models.teacher.path}, vocabulary {models.teacher_vocab_size:,}; student "
            f"vocabulary {models.student_vocab_size:,}; shared {models.vocab_size:,}",
        ),
    ]


def check_memory(job: Job) -> Finding:
    """Weights, gradients and optimizer against the cluster's memory (where all runs on CPUs)."""
    run = RunDirectory.of(job)
    try:
        sizes = cluster.run_remote(count_parameters, job, run, labels=job.stream.labels)
    except RaykdError as error:
        return Finding(False, "memory", str(error))
    # Trained: weight, gradient and two moments of 4 bytes each; bf16 has 2 + 2 and fp32 masters.
    frozen_bytes = 2 if job.student.dtype == "bf16" else 4
    student_bytes = sizes["student"] * (16 if job.student.lora is None else frozen_bytes)
    if job.teacher.endpoint is not None:
        sizes["teacher"] = 0
    teacher_bytes = sizes["teacher"] * (2 if job.teacher.dtype == "bf16" else 4)
    copies = job.student.num_workers if job.student.zero_stage == 0 else 1
    total = teacher_bytes * job.teacher.first_replicas + student_bytes * copies
    have = cluster.totals().get("memory", math.inf)
    text = (
        f"student {sizes['student'] / 1e6:,.1f}M, {student_bytes / 2**30:.2f} GiB of "
        "weights, gradients and optimizer; activations come on top"
    )
    if sizes["teacher"]:
        text = (
            f"teacher {sizes['teacher'] / 1e6:,.1f}M parameters, {teacher_bytes / 2**30:.2f} GiB a "
            f"replica; {text}"
        )
    if job.teacher.device == "cpu" and job.student.device == "cpu" and total > have:
        return Finding(False, "memory", f"{text}; the cluster has {have / 2**30:.1f} GiB")
    return Finding(True, "memory", text)


def check(job: Job) -> list[Finding]:
    """All checks of a job against the connected cluster."""
    findings = check_nodes(job)
    findings += [check_storage(job), check_resources(job), check_trackers(job)]
    findings += [] if job.generation is None else [check_filters(job)]
    if job.teacher.endpoint is not None:
        findings.append(behind_endpoint.check_live(job))
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
            place = cluster.run_remote(
                stages.first_document, corpus, name, labels=job.stream.labels
            )
            findings.append(Finding(True, name, f"begins at {place}"))
        except RaykdError as error:
            findings.append(Finding(False, name, str(error)))
    return findings
