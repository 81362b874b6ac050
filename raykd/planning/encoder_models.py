"""The shapes of a classifier's models: which head each has, and what is learned beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.config.classifier import LABELLED, ClassifierConfig
from raykd.config.job import Job
from raykd.errors import ModelError
from raykd.planning.encoder_families import size_names
from raykd.planning.encoders import Head, encoder_shape
from raykd.planning.shape import ModelShape

Config = Mapping[str, Any]


def encoder_models(
    job: Job, teacher: Config, student: Config, directory: Path | None
) -> tuple[ModelShape, ModelShape]:
    """Teacher and student of `method: classifier`.

    Args:
        job: The job.
        teacher: The teacher's `config.json`.
        student: The student's.
        directory: Where the teacher lies, if on this machine.

    Raises:
        ModelError: A family that is not known, or nobody names the labels.
    """
    section = job.classifier
    assert section is not None, "the job is a classifier's"
    outputs, share = num_outputs(section, teacher), learned_share(job)
    dense = _dense_width(directory) if section.task == "embedding" else None
    taught = encoder_shape(teacher, Head(section.task, outputs, share, dense), "teacher.model")
    width = None
    if section.task == "embedding" or section.cosine > 0:
        width = dense or taught.hidden_size
    learns = encoder_shape(student, Head(section.task, outputs, share, width), "student.init")
    return taught, learns


def num_outputs(section: ClassifierConfig, teacher: Config) -> int:
    """Labels: the job's, else the teacher's; 1 where there are none.

    Raises:
        ModelError: Nobody names them.
    """
    if section.task not in LABELLED:
        return 1
    known = section.labels or teacher.get("id2label")
    if not known:
        raise ModelError(
            "classifier.labels: missing, and the teacher's configuration names none (`id2label`); "
            "name them in the order of the outputs"
        )
    return len(known)


def learned_share(job: Job) -> float:
    """Of a row's tokens, those that something is learned of: at most, for tokens that may pad."""
    section = job.classifier
    assert section is not None, "the job is a classifier's"
    if section.task == "masked":
        return section.mask_fraction
    return 1.0 if section.task == "tokens" else 1.0 / job.data.sequence_length_tokens


def vector_width(job: Job, teacher: ModelShape, student: ModelShape, outputs: int) -> int:
    """Numbers that travel of a learned position, as `pipeline/encoders.py` counts them.

    A masked token's outputs are no vector: only its hidden state is counted here.
    """
    section = job.classifier
    assert section is not None, "the job is a classifier's"
    if section.task == "embedding":
        beside = next((p for p in student.parameters if p.name == "projection.weight"), None)
        return student.hidden_size if beside is None else beside.shape[0]
    hidden = teacher.hidden_size if section.cosine > 0 else 0
    return hidden if section.task == "masked" else outputs + hidden


def renamed_widths(model_type: Any, widths: Mapping[str, int]) -> dict[str, int]:
    """Sizes to cut to, under the names that the family's `config.json` has."""
    own = size_names(model_type)
    return {own.get(name, name): width for name, width in widths.items()}


def _dense_width(directory: Path | None) -> int | None:
    """Numbers that a sentence encoder's own matrix makes of its vectors; None without one."""
    if directory is None:
        return None
    try:
        modules = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
        found = [one for one in modules if str(one.get("type", "")).endswith(".Dense")]
        if not found:
            return None
        said = (directory / str(found[0]["path"]) / "config.json").read_text(encoding="utf-8")
        return int(json.loads(said)["out_features"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"teacher.model: {directory}: modules.json or what it names cannot be read ({error})"
        ) from None
