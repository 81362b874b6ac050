"""What a job opens by a relative path must be in the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.student import FromPretrained
from raykd.errors import SubmissionError
from raykd.package_paths import is_package_reference
from raykd.pipeline.anchor import anchored
from raykd.submission.packing import Packed


def require_packed(job: Job, packed: Packed) -> None:
    """Refuse a job that would not find on the cluster what it finds here.

    Args:
        job: As it was read here.
        packed: What travels.

    Raises:
        StorageError: `storage_path` or the store is relative: Ray removes a job's directory.
        SubmissionError: A corpus or a model lies in the working directory but does not travel.
    """
    anchored(job, in_copy=True)
    for field, reference in _references(job):
        missing = _left_behind(reference, packed)
        if missing is not None:
            raise SubmissionError(
                f"{field}: {reference!r} is in the working directory, but {missing} does not "
                "travel with the job: put it on storage that every node sees and give its "
                "absolute path"
            )


def _references(job: Job) -> Iterator[tuple[str, str]]:
    """Fields that name files, with each file, directory or pattern."""
    if job.teacher.endpoint is None:
        yield "teacher.model", job.teacher.model
        for i, mixed in enumerate(job.teacher.mixed_in):
            yield f"teacher.mixed_in.{i}.model", mixed.model
        for name, taught in job.teacher.of_slices.items():
            yield f"teacher.of_slices.{name}.model", taught.model
    if isinstance(job.student.init, FromPretrained):
        yield "student.init.model", job.student.init.model
    yield from _corpus("data.corpus", job.data.corpus)
    for name, corpus in job.evaluation.sets.items():
        yield from _corpus(f"evaluation.sets.{name}", corpus)


def _corpus(field: str, corpus: CorpusConfig) -> Iterator[tuple[str, str]]:
    sources = [corpus.source] if isinstance(corpus.source, str) else corpus.source
    for source in sources:
        yield f"{field}.source", source


def _left_behind(reference: str, packed: Packed) -> PurePath | None:
    """A file below a relative reference that is here and not in the package."""
    if is_package_reference(reference) or "://" in reference or reference.startswith(("/", "~")):
        return None
    files = set(packed.files)
    for found in sorted(packed.root.glob(reference)):
        below = [found] if found.is_file() else sorted(p for p in found.rglob("*") if p.is_file())
        for path in below:
            relative = path.relative_to(packed.root)
            if relative not in files:
                return relative
    return None
