"""Tokens a second: measured where there is a measurement, else operations and an assumed share.

Source: PaLM, arXiv 2204.02311, appendix B: 2 operations a weight and token forward, 4 L H Q T for
attention (no factor for the causal half), the backward pass twice the forward; a second forward
pass where activations are computed again: Korthikanti et al., arXiv 2205.05198, section 6.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raykd.config.job import Job
from raykd.errors import JobError
from raykd.pipeline.run_dir import RunDirectory
from raykd.planning.accelerators import Accelerator
from raykd.planning.model_files import Models
from raykd.planning.shape import ModelShape

TEACHER_MFU: Final = 0.35
STUDENT_MFU: Final = 0.30
"""Shares of the GPU's dense bf16 speed: assumptions, not measurements."""
PROBES: Final = ".probes"
"""Where `raykd probe` leaves its answers, beside the runs."""


@dataclass(frozen=True)
class Rates:
    """What a person or a probe knows, and what is assumed elsewhere.

    Attributes:
        teacher_tokens_per_s: Of one replica; None where unknown.
        student_tokens_per_s: Of one rank.
        teacher_mfu: Share of a GPU's speed that the teacher reaches.
        student_mfu: The same for the student.
        source: Where the known ones are from.
        wire_bytes: A learned token's, by the probe's label of the codec.
        write_tokens_per_s: Of one replica that writes text; a probe does not measure it.
    """

    teacher_tokens_per_s: float | None = None
    student_tokens_per_s: float | None = None
    teacher_mfu: float = TEACHER_MFU
    student_mfu: float = STUDENT_MFU
    source: str | None = None
    wire_bytes: dict[str, float] | None = None
    write_tokens_per_s: float | None = None


def probe_file(job: Job) -> Path | None:
    """What a probe of this job found: in its run directory, or beside the runs."""
    run = RunDirectory.of(job)
    beside = RunDirectory(run.root.parent / PROBES / job.name)
    return next((file for file in (run.probe, beside.probe) if file.is_file()), None)


def read_probe_rates(file: Path) -> Rates:
    """The rates that a probe measured.

    Raises:
        JobError: It is not what `raykd probe` writes.
    """
    try:
        tree: Any = json.loads(file.read_text(encoding="utf-8"))
        return Rates(
            teacher_tokens_per_s=_positive(tree["teacher_tokens_per_s"]),
            student_tokens_per_s=_positive(tree["student_tokens_per_s"]),
            source=str(file),
            wire_bytes={str(c["label"]): float(c["wire_bytes"]) for c in tree["codecs"]},
        )
    except OSError as error:
        raise JobError(f"--probe {file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"--probe {file}: not an answer of `raykd probe` ({type(error).__name__}: {error})"
        ) from None


def _positive(value: Any) -> float:
    if not float(value) > 0:
        raise ValueError(f"a rate of {value}")
    return float(value)


def teacher_flops(job: Job, models: Models) -> float:
    """Operations of the teacher for one token that is learned from.

    Where slices have teachers of their own, those of the one that has most: how much of the data
    is whose is not known before it is read.
    """
    row_tokens = job.data.sequence_length_tokens

    def one(model: ModelShape) -> float:
        return _forward(model, row_tokens) + _head(model, 1)

    together = sum(one(model) for model in (models.teacher, *models.mixed_in))
    return max([together, *(one(model) for model in models.of_slices)])


def student_flops(job: Job, models: Models) -> float:
    """Operations of the student for one token: forward, again where recomputed, backward."""
    model, student = models.student, job.student
    # Frozen weights need no gradient of their own: half of the backward pass.
    backward = 1 if student.lora is not None else 2
    passes = 1 + backward + int(student.activation_checkpointing)
    flops = passes * _forward(model, job.data.sequence_length_tokens)
    flops += _head(model, 1 + backward)
    if job.soft_targets.codec == "hidden" and job.learns_from_logits:
        flops += _head(models.teacher, 1)
    return flops


def _forward(model: ModelShape, row_tokens: int) -> float:
    attention = 4 * model.num_layers * model.query_width * row_tokens
    return 2.0 * model.body_matrix_size + attention


def _head(model: ModelShape, products: int) -> float:
    return 2.0 * products * model.head_size_total


def replica_rate(
    job: Job, models: Models, rates: Rates, accelerator: Accelerator | None
) -> float | None:
    """Tokens a second of one replica; None where nothing tells."""
    if rates.teacher_tokens_per_s is not None:
        return rates.teacher_tokens_per_s
    if job.teacher.device == "cpu" or accelerator is None:
        return None
    gpus = job.teacher.num_shards
    return gpus * accelerator.bf16_flops * rates.teacher_mfu / teacher_flops(job, models)


def rank_rate(
    job: Job, models: Models, rates: Rates, accelerator: Accelerator | None
) -> float | None:
    """Tokens a second of one rank; None where nothing tells."""
    if rates.student_tokens_per_s is not None:
        return rates.student_tokens_per_s
    if job.student.device == "cpu" or accelerator is None:
        return None
    return accelerator.bf16_flops * rates.student_mfu / student_flops(job, models)
