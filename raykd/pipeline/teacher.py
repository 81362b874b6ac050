"""The teacher of a run: which engine, how it is started, what it says of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from raykd.config.job import Job
from raykd.evaluation.report_data import ModelFacts
from raykd.pipeline import stages
from raykd.pipeline.run_dir import RunDirectory
from raykd.student.engine import ZeroStudent
from raykd.student.trainer import StudentClass
from raykd.teacher.engine import EngineSpec
from raykd.teacher.service import EngineClass, ReplicaSpec, TeacherClient, TeacherService
from raykd.teacher.transformers_tp import TransformersEngine

ENGINES: dict[str, EngineClass] = {"transformers": TransformersEngine}
"""What `teacher.engine` may name."""


@dataclass(frozen=True)
class Parts:
    """What may be put in the place of the real teacher and student, in tests and benchmarks."""

    engine_class: EngineClass | None = None
    """None: what `teacher.engine` names."""
    student_class: StudentClass = ZeroStudent


class Teacher:
    """The teacher of a run: its service while it lives, and what it said of itself."""

    client: TeacherClient
    facts: ModelFacts

    def __init__(self, service: TeacherService) -> None:
        self._service: TeacherService | None = service

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._service is not None

    def wait(self, job: Job, models: stages.Models) -> None:
        """Block until it answers."""
        assert self._service is not None
        self.client = self._service.wait()
        described = self.client.describe()
        self.facts = ModelFacts(
            name=models.teacher.path,
            parameters=described["parameters"],
            bytes=described["bytes"],
            dtype=job.teacher.dtype,
        )

    def stop(self) -> None:
        """Free its resources; a second call does nothing."""
        if self._service is not None:
            self._service.stop()
            self._service = None


def start_teacher(job: Job, models: stages.Models, parts: Parts) -> Teacher:
    """Begin to start the service; `Teacher.wait` says when it answers."""
    config = job.teacher
    engine = EngineSpec(
        source=models.teacher,
        dtype=config.dtype,
        use_gpu=config.device == "gpu",
        threads=config.threads,
        micro_batch_tokens=config.micro_batch_tokens,
        head_chunk_tokens=config.head_chunk_tokens,
    )
    replica = ReplicaSpec.of(
        parts.engine_class or ENGINES[config.engine],
        engine,
        config.tensor_parallel,
        config.cpus_per_shard,
    )
    service = TeacherService(_app_name(job), config, replica, config.replicas)
    service.start()
    return Teacher(service)


def _app_name(job: Job) -> str:
    """Runs of one name under other storage paths have teachers of their own."""
    place = str(RunDirectory.of(job).root)
    return f"raykd-{job.name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
