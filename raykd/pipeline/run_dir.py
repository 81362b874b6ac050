"""The run directory: what lies where, and whose it is."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raykd.config.job import Job
from raykd.config.load import dump_job, parse_job
from raykd.errors import StorageError
from raykd.pipeline import lease

ASIDE = ".aside"
PROBE = ".probe-"
MAY_CHANGE = (
    "storage_path",
    "capacity",
    "checkpoint",
    "soft_targets.store",
    "soft_targets.store_mode",
    "stream",
    "tracking",
    "teacher.device",
    "teacher.tensor_parallel",
    "teacher.pipeline_parallel",
    "teacher.vllm",
    "teacher.replicas",
    "teacher.cpus_per_shard",
    "teacher.threads_per_shard",
    "teacher.micro_batch_tokens",
    "teacher.head_chunk_tokens",
    "teacher.labels",
    "teacher.start_timeout_s",
    "teacher.request_timeout_s",
    "teacher.max_retries",
    "teacher.endpoint.api_key_env",
    "teacher.endpoint.max_concurrent_requests",
    "teacher.endpoint.requests_per_minute",
    "teacher.endpoint.tokens_per_minute",
    "teacher.endpoint.price_per_million_tokens",
    "teacher.endpoint.max_cost_usd",
    "student.num_workers",
    "student.cpus_per_worker",
    "student.threads_per_worker",
    "student.labels",
    "student.start_timeout_s",
    "student.activation_checkpointing",
    "train.micro_batch",
)
"""What a resumed run may have changed: where and how fast it runs, not what it computes."""


@dataclass(frozen=True)
class RunDirectory:
    """`storage_path/name` and the places in it."""

    root: Path
    storage: Path | None = None
    """Where what runs share lies; None is the directory above."""

    @classmethod
    def of(cls, job: Job) -> RunDirectory:
        """The directory of a job's run."""
        return cls(Path(job.storage_path).expanduser().resolve() / job.name)

    @property
    def job_file(self) -> Path:
        """The resolved job."""
        return self.root / "job.yaml"

    @property
    def data(self) -> Path:
        """Prepared rows and held-out targets."""
        return self.root / "data"

    @property
    def initial_student(self) -> Path:
        """The student before training, where raykd made it."""
        return self.root / "untrained"

    @property
    def student(self) -> Path:
        """The export."""
        return self.root / "student"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints."""
        return self.root / "checkpoints"

    @property
    def teacher_head(self) -> Path:
        """The teacher's head, where hidden states travel."""
        return self.root / "teacher_head.safetensors"

    @property
    def probe(self) -> Path:
        """What a probe found, where `codec: auto` asked for one."""
        return self.root / "probe.json"

    @property
    def generated(self) -> Path:
        """Everything that the teacher wrote, with each filter's verdict."""
        return self.root / "generated.parquet"

    @property
    def learned(self) -> Path:
        """What of it is learned from, as a corpus."""
        return self.root / "learned.parquet"

    @property
    def generated_summary(self) -> Path:
        """How much was generated, kept and dropped, and by which job."""
        return self.root / "generated.json"

    @property
    def generating(self) -> Path:
        """How far the teacher is with writing."""
        return self.logs / "generating.json"

    @property
    def metrics(self) -> Path:
        """A line a step."""
        return self.root / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Side files, errors, trackers' files."""
        return self.root / "logs"

    @property
    def teacher_log(self) -> Path:
        """Replicas and queue over time."""
        return self.logs / "teacher.jsonl"

    @property
    def stop_file(self) -> Path:
        """Its existence asks the ranks to save and end."""
        return self.logs / "stop"

    @property
    def model_cache(self) -> Path:
        """Converted weights, shared by the runs of one storage path."""
        return (self.storage or self.root.parent) / ".models"

    def targets(self, name: str) -> Path:
        """Held-out rows of a set with their soft targets."""
        return self.data / f"{name}.scored.arrow"


def claim(job: Job, resume: bool) -> RunDirectory:
    """Make the run directory, or check that the one that is there may go on.

    A directory in which nothing was learned yet is nobody's: its job may be corrected and begun
    again. `resume` goes on with the run that is there and begins where there is none, so that a job
    system can give the same command again and again.

    Raises:
        StorageError: It cannot be written, or holds another run.
    """
    run = RunDirectory.of(job)
    begun = run.metrics.is_file() or run.checkpoints.is_dir() or run.student.is_dir()
    if run.job_file.is_file() and resume:
        _check_same(load_run_job(run.root), job, run)
    elif run.job_file.is_file() and begun:
        raise StorageError(
            f"{run.root} holds a run already: --resume goes on with it, "
            "--set name=OTHER starts one beside it"
        )
    elif run.root.is_dir() and not run.job_file.is_file() and _holds_something(run):
        raise StorageError(
            f"{run.root} is not empty and is not a run of raykd; choose another name or "
            "storage_path"
        )
    elif run.root.is_dir():
        forget(run)
    require_writable(run.root)
    # First of all files: with it a run that is killed at any later moment is known for one.
    aside = run.job_file.with_suffix(ASIDE)
    aside.write_text(dump_job(job))
    aside.rename(run.job_file)
    run.logs.mkdir(parents=True, exist_ok=True)
    run.model_cache.mkdir(parents=True, exist_ok=True)
    run.stop_file.unlink(missing_ok=True)
    return run


def _holds_something(run: RunDirectory) -> bool:
    """Whether anything lies there but what a run leaves that was killed as it began."""
    traces = (lease.FILE, run.job_file.with_suffix(ASIDE).name)
    return any(
        path.name not in traces and not path.name.startswith((PROBE, f".{lease.FILE}."))
        for path in run.root.iterdir()
    )


def forget(run: RunDirectory) -> None:
    """Remove what another job's models made; prepared rows know themselves whether they fit."""
    shutil.rmtree(run.initial_student, ignore_errors=True)
    run.teacher_head.unlink(missing_ok=True)
    run.probe.unlink(missing_ok=True)
    for scored in run.data.glob("*.scored.arrow"):
        scored.unlink()


def load_run_job(root: Path) -> Job:
    """The job that a run directory was made from.

    Raises:
        StorageError: It is not a run directory.
    """
    file = root / "job.yaml"
    if not file.is_file():
        raise StorageError(f"{root}: not a run directory (it has no job.yaml)")
    try:
        tree = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{file}: cannot be read as the run's job ({reason})") from None
    return parse_job(tree, {}, str(file))


def require_writable(root: Path) -> None:
    """Make the directory if need be, and write a file in it.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f"{PROBE}{uuid.uuid4().hex}"
        probe.write_text("raykd")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"storage_path: {root} cannot be written ({error.strerror}); choose another with "
            "--set storage_path=PATH"
        ) from None


def _check_same(before: Job, now: Job, run: RunDirectory) -> None:
    differing = [
        f"  {path}: was {old!r}, now {new!r}"
        for path, old, new in _differences(
            before.model_dump(mode="json"), now.model_dump(mode="json"), ""
        )
        if not any(f"{path}.".startswith(f"{key}.") for key in MAY_CHANGE)
    ]
    if differing:
        raise StorageError(
            f"{run.root} was started from another job:\n"
            + "\n".join(differing)
            + "\nSet these back to go on with it, or choose another name. What may change on "
            f"resume: {', '.join(MAY_CHANGE)}"
        )


def _differences(old: Any, new: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in {**old, **new}
            for found in _differences(
                old.get(key), new.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    return [] if old == new else [(path, old, new)]
