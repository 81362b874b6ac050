"""The teacher of a run: which engine, how it is started, what it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raykd.config.job import Job
from raykd.config.teacher import TeacherConfig
from raykd.evaluation.report_data import ModelFacts
from raykd.pipeline import cluster, plan, waiting
from raykd.pipeline.models import Models, count_parameters
from raykd.pipeline.run_dir import RunDirectory
from raykd.student.encoder_student import EncoderStudent
from raykd.student.engine import ZeroStudent
from raykd.student.masked_student import MaskedStudent
from raykd.student.trainer import StudentClass
from raykd.teacher import leftover
from raykd.teacher.client import TeacherClient
from raykd.teacher.encoder_engine import EncoderEngine
from raykd.teacher.engine import EngineSpec
from raykd.teacher.replica import EngineClass, Hosting, ReplicaSpec
from raykd.teacher.service import TeacherService, Window
from raykd.teacher.transformers_tp import TransformersEngine
from raykd.teacher.vllm_arguments import VllmOptions
from raykd.teacher.vllm_engine import VllmEngine
from raykd.teacher.watch import watched
from raykd.telemetry.replicas import ReplicaSample

ENGINES: dict[str, EngineClass] = {"transformers": TransformersEngine, "vllm": VllmEngine}
"""What `teacher.engine` may name of engines that raykd runs itself."""


@dataclass(frozen=True)
class Parts:
    """What may be put in the place of the real teacher and student, in tests and benchmarks."""

    engine_class: EngineClass | None = None
    """None: what `teacher.engine` names."""
    student_class: StudentClass = ZeroStudent


class Teacher:
    """The teacher of a run: its service while it lives, and what it said of itself."""

    client: TeacherClient
    facts: ModelFacts | None
    """None of a model that nobody here has seen."""

    def __init__(self, service: TeacherService | None) -> None:
        self._service = service

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._service is not None

    def wait(self, job: Job, models: Models) -> None:
        """Block until it answers."""
        assert self._service is not None
        self.client = self._service.wait()
        if (nodes := waiting.active()) is not None:
            nodes.teacher_began()
        described = self.client.describe()
        self.facts = _facts(job, models, described["parameters"], described["bytes"])

    def watched(
        self, log: Path, show: Callable[[ReplicaSample], None]
    ) -> AbstractContextManager[None]:
        """While the block runs, keep replicas and queue over time in `log` and show them."""
        return nullcontext() if self._service is None else watched(self._service.look, log, show)

    def stop(self) -> None:
        """Free its resources; a second call does nothing."""
        if self._service is not None:
            self._service.stop()
            self._service = None


def start_teacher(job: Job, models: Models, parts: Parts) -> Teacher:
    """Begin to start the service; `Teacher.wait` says when it answers."""
    if job.teacher.endpoint is not None or not job.teacher.is_asked:
        return _behind_endpoint()
    config = job.teacher
    engine = EngineSpec(
        source=models.teacher,
        dtype=config.dtype,
        use_gpu=config.device == "gpu",
        threads=config.threads,
        micro_batch_tokens=config.micro_batch_tokens,
        head_chunk_tokens=config.head_chunk_tokens,
        mixed_in=models.mixed_in,
        of_slices=models.of_slices,
        encoder=models.encoder,
    )
    replica = ReplicaSpec.of(
        parts.engine_class or _engine_class(job),
        engine,
        config.num_shards,
        config.cpus_per_shard,
        _hosting(config) if parts.engine_class is None else "actors",
    )
    window = Window(plan.requests_in_flight(job), plan.ongoing_target(job))
    service = TeacherService(_app_name(job), config, replica, window, waiting.active())
    service.start()
    return Teacher(service)


def student_class(job: Job, parts: Parts) -> StudentClass:
    """What each rank builds."""
    if parts.student_class is not ZeroStudent or job.classifier is None:
        return parts.student_class
    return MaskedStudent if job.classifier.task == "masked" else EncoderStudent


def _engine_class(job: Job) -> EngineClass:
    """The engine that a job names, with what only it is told."""
    config = job.teacher
    if job.method == "classifier":
        return EncoderEngine
    if config.engine == "vllm":
        return partial(VllmEngine, options=VllmOptions.of(config))
    return ENGINES[config.engine]


def _hosting(config: TeacherConfig) -> Hosting:
    """Who starts a replica's shards."""
    if config.engine != "vllm":
        return "actors"
    return "node" if config.pipeline_parallel == 1 else "cluster"


def _behind_endpoint() -> Teacher:
    """A teacher that writes when it is asked, and starts nothing here."""
    teacher = Teacher(None)
    teacher.facts = None
    return teacher


def remove_left_over(job: Job) -> bool:
    """Take down what a killed driver of this run left of its teacher; whether there was any."""
    return leftover.remove(_app_name(job))


def absent_teacher(job: Job, run: RunDirectory, models: Models) -> Teacher:
    """A teacher that nobody has to ask; its size is read from its configuration."""
    teacher = Teacher(None)
    counted = cluster.run_remote(count_parameters, job, run, labels=job.stream.labels)
    parameters = counted["teacher"]
    width_bytes = 2 if job.teacher.dtype == "bf16" else 4
    teacher.facts = _facts(job, models, parameters, parameters * width_bytes)
    return teacher


def _facts(job: Job, models: Models, parameters: int, num_bytes: int) -> ModelFacts:
    return ModelFacts(
        name=models.teacher.path,
        parameters=parameters,
        bytes=num_bytes,
        dtype=job.teacher.dtype,
    )


def _app_name(job: Job) -> str:
    """Runs of one name under other storage paths have teachers of their own."""
    place = str(RunDirectory.of(job).root)
    return f"raykd-{job.name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
