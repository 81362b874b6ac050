"""From a checkpoint of a classifier to a plain Hugging Face directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from raykd import __version__
from raykd.config.job import Job
from raykd.config.load import dump_job
from raykd.models.encoder import EncoderSpec, load_encoder
from raykd.models.load import ModelSource, load_tokenizer, torch_dtype
from raykd.models.sentence import write_pooling
from raykd.student.checkpoint import Checkpoint
from raykd.student.export import full_weights, load_weights

PREFIX, PROJECTION = "encoder.", "projection.weight"
"""Names within what was trained."""


def export_encoder(
    job: Job,
    initial: ModelSource,
    teacher: ModelSource,
    spec: EncoderSpec,
    checkpoint: Checkpoint,
    directory: Path,
) -> None:
    """Write weights (safetensors), tokenizer, labels or pooling, and a model card.

    Args:
        job: The run's.
        initial: The student's first weights, whose architecture it has.
        teacher: Whose tokenizer it has, and whose pooling.
        spec: The task.
        checkpoint: What to export.
        directory: Replaced as a whole once everything is written.

    Raises:
        StorageError: The checkpoint holds other weights than the student has.
    """
    model: Any = load_encoder(initial, spec, "fp32", "student.init")
    load_weights(model, checkpoint, PREFIX)
    model = model.to(torch_dtype(job.student.dtype))
    aside = directory.with_name(directory.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer: Any = load_tokenizer(teacher, "tokenizer")
    # What a pipeline cuts its texts to.
    tokenizer.model_max_length = job.data.sequence_length_tokens
    tokenizer.save_pretrained(aside)
    if spec.pooling is not None:
        length = job.data.sequence_length_tokens
        matrix = full_weights(checkpoint).get(PROJECTION)
        write_pooling(aside, teacher, spec.pooling, model.config.hidden_size, length, matrix)
    (aside / "README.md").write_text(model_card(job, teacher, spec, checkpoint))
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)


def model_card(job: Job, teacher: ModelSource, spec: EncoderSpec, checkpoint: Checkpoint) -> str:
    """Says how the model was made; its figures are put in where the card says `measured`."""
    environment = Environment(  # Markdown, not HTML: nothing to escape  # noqa: S701
        loader=PackageLoader("raykd.student"), undefined=StrictUndefined
    )
    return environment.get_template("encoder_card.md.j2").render(
        job=job,
        hub_teacher=None if teacher.is_directory else teacher.path,
        spec=spec,
        mark=checkpoint.mark,
        version=__version__,
        job_yaml=dump_job(job),
    )
