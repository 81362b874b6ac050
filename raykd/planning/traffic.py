"""Bytes from teacher to student: what a token has on the wire, codec by codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from raykd.config.job import Job
from raykd.models.alignment import InnerShape, align
from raykd.planning.encoder_heads import num_outputs
from raykd.planning.encoder_models import vector_width
from raykd.planning.model_files import Models
from raykd.planning.shape import ModelShape

ROW_BYTES: Final = 9
"""Of every token: its id, its position, whether it is learned from."""
_VALUE_BYTES: Final[Mapping[str, float]] = {"fp32": 4, "bf16": 2, "int8": 1, "int6": 0.75}


@dataclass(frozen=True)
class WireCodec:
    """A codec on the wire.

    Attributes:
        label: What it is.
        token_bytes: Of a token that is learned from: its soft targets as Arrow columns.
        bound: True where that is the most it can be.
        measured: True where a probe counted it.
        state_bytes: Of every token of a document: its inner states.
    """

    label: str
    token_bytes: float
    bound: bool = False
    measured: bool = False
    state_bytes: int = 0


def top_k_bytes(vocab_size: int, k: int, values: str, tail: int) -> float:
    """Of a token; the columns of `soft_targets/top_k.py`.

    Args:
        vocab_size: V, which decides how many bytes an id takes.
        k: Ids kept.
        values: Width of a log probability.
        tail: Temperatures whose tail is kept.
    """
    kept = k * (_id_bytes(vocab_size) + _VALUE_BYTES[values])
    if values == "int6":
        kept = k * _id_bytes(vocab_size) + 3 * -(-k // 4)
    # The label's log probability, the likeliest's, and the scale of a step.
    beside = 4 + (0 if values == "fp32" else 4) + (2 if values in ("int8", "int6") else 0)
    return kept + beside + 4 * tail


def sampled_bytes(vocab_size: int, draws: int, *, ratios: bool) -> float:
    """Most of a token; ids drawn more than once travel once."""
    return draws * (_id_bytes(vocab_size) + 1 + 4 * ratios) + 4 + 1 + 4


def hidden_bytes(hidden_size: int, values: str) -> float:
    """Of a token."""
    return hidden_size * _VALUE_BYTES[values] + (4 if values == "int8" else 0)


def full_bytes(vocab_size: int, values: str) -> float:
    """Of a token."""
    return vocab_size * _VALUE_BYTES[values] + 4


def _id_bytes(vocab_size: int) -> int:
    if vocab_size <= 2**16:
        return 2
    return 3 if vocab_size <= 2**24 else 4


def job_codec(job: Job, models: Models, measured: Mapping[str, float] | None) -> WireCodec:
    """What the job asks for."""
    asked, vocab = job.soft_targets, models.vocab_size
    tail = len(job.temperatures) if asked.tail else 0
    if asked.codec in ("top_k", "auto"):
        label = f"top_k {asked.top_k} {asked.width}{'' if asked.tail else ' no tail'}"
        if asked.codec == "auto":
            label = "top_k 64 int8"
        return _known(label, top_k_bytes(vocab, asked.top_k, asked.width, tail), measured)
    if asked.codec == "sampled":
        proposal = asked.proposal_temperature
        ratios = proposal is not None and proposal != job.loss.temperature
        size = sampled_bytes(vocab, asked.draws, ratios=ratios)
        return _known(f"sampled {asked.draws}", size, measured, bound=True)
    if asked.codec == "hidden":
        size = hidden_bytes(models.teacher.hidden_size, asked.hidden_values)
        return _known(f"hidden {asked.hidden_values}", size, measured)
    return _known(f"full {asked.width}", full_bytes(vocab, asked.width), measured)


def all_codecs(job: Job, models: Models, measured: Mapping[str, float] | None) -> list[WireCodec]:
    """The job's own first, then what it could ask for instead."""
    if job.classifier is not None:
        return encoder_codecs(job, models, measured)
    vocab, tail = models.vocab_size, len(job.temperatures)
    inner = state_bytes(job, models)
    if not job.learns_from_logits:
        return [WireCodec("inner states", 0, state_bytes=inner)]
    ours = job_codec(job, models, measured)
    others = [
        *(
            _known(f"top_k {k} int8", top_k_bytes(vocab, k, "int8", tail), measured)
            for k in (16, 64, 128)
            if k < vocab
        ),
        _known("sampled 50", sampled_bytes(vocab, 50, ratios=False), measured, bound=True),
        _known("hidden bf16", hidden_bytes(models.teacher.hidden_size, "bf16"), measured),
        _known("full bf16", full_bytes(vocab, "bf16"), measured),
    ]
    found = [ours, *(one for one in others if one.label != ours.label)]
    if not inner:
        return found
    return [replace(one, label=f"{one.label} + inner states", state_bytes=inner) for one in found]


def encoder_codecs(
    job: Job, models: Models, measured: Mapping[str, float] | None
) -> list[WireCodec]:
    """What a classifier's learned positions carry: vectors in fp32; of masked tokens a codec."""
    assert job.classifier is not None, "the job is a classifier's"
    section, teacher = job.classifier, models.teacher
    outputs = num_outputs(job, teacher)
    vector = vector_width(job, teacher, models.student, outputs)
    if section.task == "masked":
        own = job_codec(job, models, measured)
        states = hidden_bytes(vector, "bf16") if vector else 0.0
        label = f"{own.label}{' + hidden bf16' if vector else ''} of masked tokens"
        return [replace(own, label=label, token_bytes=own.token_bytes + states)]
    where = "word" if section.task == "tokens" else "text"
    label = f"{vector:,} numbers fp32 of each {where}"
    return [WireCodec(label, hidden_bytes(vector, "fp32"))]


def state_bytes(job: Job, models: Models) -> int:
    """Of the inner states of a token, in bf16; the columns of `soft_targets/states.py`.

    Raises:
        ModelError: The layer map or the relation heads do not fit.
    """
    if job.representations is None:
        return 0
    found = align(job.representations, _inside(models.student), _inside(models.teacher))
    hidden = len(found.teacher_layers) * found.teacher.hidden_size
    return 2 * (hidden + sum(found.teacher.width(name) for name in found.relations))


def _inside(model: ModelShape) -> InnerShape:
    return InnerShape(
        model.num_layers, model.hidden_size, model.num_heads, model.num_kv_heads, model.head_size
    )


def _known(
    label: str, size: float, measured: Mapping[str, float] | None, *, bound: bool = False
) -> WireCodec:
    if measured and label in measured:
        return WireCodec(label, measured[label], measured=True)
    return WireCodec(label, size, bound=bound)
