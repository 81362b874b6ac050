"""What of a run's rows its store does not hold yet."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.config.job import Job
from raykd.data.order import RowOrder
from raykd.pipeline import by_slice, cluster
from raykd.pipeline.kept import Kept, Lacking
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec, states_spec, training_spec
from raykd.soft_targets.spec import CodecSpec
from raykd.store.sections import others


def rows_lacking(
    job: Job,
    models: Models,
    run: RunDirectory,
    kept: Kept,
    heldout: Sequence[str],
    training: tuple[RowOrder, range],
) -> dict[str, Lacking]:
    """Of every set, how many rows the store lacks; by what is wanted of it.

    Args:
        job: The run's.
        models: The run's.
        run: Its directory, with rows.
        kept: Its store.
        heldout: Names of the sets that are measured on.
        training: The order of the rows, and the places that are still to be learned from.
    """
    lacking = {}
    if job.learns_from_logits:
        spec = training_spec(job, models)
        lacking["train"] = _count(job, models, run, kept, "train", spec, training)
    if (states := states_spec(job, models)) is not None:
        name = "train (inner states)"
        lacking[name] = _count(job, models, run, kept, "train", states, training)
    for name in heldout:
        if not run.targets(name).is_file():
            lacking[name] = _count(job, models, run, kept, name, heldout_spec(job, models))
    return lacking


def _count(
    job: Job,
    models: Models,
    run: RunDirectory,
    kept: Kept,
    name: str,
    spec: CodecSpec,
    rows: tuple[RowOrder | None, range] = (None, range(0)),
) -> Lacking:
    order, places = rows
    found: Lacking = cluster.run_remote(
        by_slice.count_lacking,
        job,
        models,
        kept,
        spec,
        run.data / name,
        order,
        places,
        cpus=0,
        labels=job.stream.labels,
    )
    return found


def other_sections(job: Job, models: Models, kept: Kept) -> str:
    """What the store holds of other teachers, tokenizers and codecs."""
    spec = training_spec if job.learns_from_logits else heldout_spec
    asked = by_slice.of_first(job, models, spec(job, models))
    return others(kept.location, kept.section(asked))


def lacks_head(job: Job, models: Models, run: RunDirectory) -> bool:
    """Whether the teacher's head is needed and not there yet."""
    if models.encoder is not None or not job.learns_from_logits:
        return False
    return training_spec(job, models).source == "hidden" and not run.teacher_head.is_file()
