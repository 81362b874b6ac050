"""Relative paths of a job made absolute, before other processes open them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.model import ModelConfig
from raykd.config.student import FromPretrained
from raykd.config.teacher import TeacherConfig
from raykd.errors import StorageError

AnyModel = TypeVar("AnyModel", bound=ModelConfig)


def anchored(job: Job, in_copy: bool) -> Job:
    """The job with absolute paths.

    Args:
        job: As it was read.
        in_copy: The driver works in a copy that Ray made of a submitted working directory. Every
            node has one at another place, so paths into it stay relative.

    Raises:
        StorageError: `storage_path` or the store would lie in that copy, which Ray removes.
    """
    job = job.model_copy(update={"storage_path": _kept(job.storage_path, "storage_path", in_copy)})
    store = job.soft_targets.store
    if store is not None and "://" not in store:
        place = _kept(store, "soft_targets.store", in_copy)
        targets = job.soft_targets.model_copy(update={"store": place})
        job = job.model_copy(update={"soft_targets": targets})
    return job if in_copy else _anchor_inputs(job)


def _kept(directory: str, field: str, in_copy: bool) -> str:
    """Where something is to stay; absolute."""
    path = Path(directory).expanduser()
    if in_copy and not path.is_absolute():
        raise StorageError(
            f"{field}: {directory!r} is relative, and this job works in a copy of the working "
            "directory that Ray removes when it ends; give a directory that every node sees: "
            f"--set {field}=/shared/{path.name}"
        )
    return str(path.absolute())


def _anchor_inputs(job: Job) -> Job:
    init = job.student.init
    if isinstance(init, FromPretrained):
        init = init.model_copy(update={"model": _absolute(init.model)})
    sets = {name: _anchor_corpus(corpus) for name, corpus in job.evaluation.sets.items()}
    return job.model_copy(
        update={
            "data": job.data.model_copy(update={"corpus": _anchor_corpus(job.data.corpus)}),
            "teacher": _anchor_teacher(job.teacher),
            "student": job.student.model_copy(update={"init": init}),
            "evaluation": job.evaluation.model_copy(update={"sets": sets}),
        }
    )


def _anchor_teacher(teacher: TeacherConfig) -> TeacherConfig:
    """An endpoint's name for its model is no path, though a directory may be called like it."""
    if teacher.endpoint is not None:
        return teacher
    return teacher.model_copy(
        update={
            "model": _absolute(teacher.model),
            "mixed_in": [_anchor_model(one) for one in teacher.mixed_in],
            "of_slices": {name: _anchor_model(one) for name, one in teacher.of_slices.items()},
        }
    )


def _anchor_model(model: AnyModel) -> AnyModel:
    return model.model_copy(update={"model": _absolute(model.model)})


def _anchor_corpus(corpus: CorpusConfig) -> CorpusConfig:
    source = corpus.source
    anchored_source = (
        _absolute(source) if isinstance(source, str) else [_absolute(one) for one in source]
    )
    return corpus.model_copy(update={"source": anchored_source})


def _absolute(reference: str) -> str:
    """An existing path or glob becomes absolute; a hub's name or a package's stays."""
    path = Path(reference).expanduser()
    if reference.startswith("package:") or path.is_absolute():
        return reference
    if path.exists() or (any(c in reference for c in "*?[") and any(Path().glob(reference))):
        return str(path.absolute())
    return reference
