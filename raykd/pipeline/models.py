"""The models of a job: found, compared with what it asks, counted, and the student's first weights.

Each function runs as one task on the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raykd.config.job import Job
from raykd.config.student import FromPretrained
from raykd.data.fingerprint import tokenizer_identity
from raykd.errors import ModelError
from raykd.models.alignment import Alignment
from raykd.models.encoder import EncoderSpec
from raykd.models.load import ModelSource, load_config, load_tokenizer, locate
from raykd.models.mixture import MixedIn
from raykd.models.of_slices import OfSlices
from raykd.models.token_bytes import token_bytes
from raykd.models.vocab import check_same_tokens, shared_vocab_size
from raykd.pipeline import encoders
from raykd.pipeline.aligned import alignment_of
from raykd.pipeline.at_hand import weights_at_hand
from raykd.pipeline.behind_endpoint import teacher_identity
from raykd.pipeline.mixture import (
    configs_beside,
    find_mixed_in,
    find_of_slices,
    mixture_identity,
)
from raykd.pipeline.rewarding import find_scorer
from raykd.pipeline.run_dir import RunDirectory


@dataclass(frozen=True)
class Models:
    """The models of a job, found and compared."""

    teacher: ModelSource
    pretrained: ModelSource | None
    """The student's first weights where they exist already; else raykd makes them."""
    num_tokens: int
    vocab_size: int
    """Width of the logits that both sides share."""
    teacher_vocab_size: int
    teacher_hidden_size: int
    teacher_identity: str
    """Of its weights (`models.identity`)."""
    tokenizer_identity: str
    """Of the tokenizer that both sides share (`data.fingerprint`)."""
    student_vocab_size: int
    pad_id: int
    alignment: Alignment | None = None
    """Which inner states are compared; None where none are."""
    mixed_in: tuple[MixedIn, ...] = ()
    """What is averaged with the teacher."""
    of_slices: tuple[OfSlices, ...] = ()
    """What teaches slices of the data instead of the teacher."""
    encoder: EncoderSpec | None = None
    """What a classifier puts out; None of models of text."""
    scorer: ModelSource | None = None
    """What judges completions; None where none is asked."""


def find_models(job: Job, run: RunDirectory) -> Models:
    """Locate teacher and student, compare their tokens and shapes with what the job asks.

    Raises:
        ModelError: Something is missing or does not fit; names the field.
    """
    from raykd.models.init import student_config

    if job.method == "classifier":
        return encoders.find(job, run)
    at_hand, field = weights_at_hand(job)
    teacher = locate(at_hand, field, run.model_cache)
    tokenizer = load_tokenizer(teacher, f"{field}.model")
    teacher_config = load_config(teacher, f"{field}.model")
    init, pretrained = job.student.init, None
    if isinstance(init, FromPretrained):
        pretrained = locate(init, "student.init", run.model_cache)
        check_same_tokens(tokenizer, load_tokenizer(pretrained, "student.init.model"))
        config = load_config(pretrained, "student.init.model")
    else:
        config = student_config(init, teacher_config)
    vocab_size = shared_vocab_size(tokenizer, teacher_config, config)
    _check_lengths(job, teacher_config, config)
    _check_shards(job, teacher_config)
    check_top_k(job, vocab_size)
    if job.targets_are_given:
        # Before anything is paid for: what the endpoint names must be found in this vocabulary.
        token_bytes(tokenizer, vocab_size)
    pad = tokenizer.pad_token_id
    mixed_in = find_mixed_in(job, tokenizer, vocab_size, run.model_cache)
    return Models(
        teacher=teacher,
        pretrained=pretrained,
        num_tokens=len(tokenizer.get_vocab()),
        vocab_size=vocab_size,
        teacher_vocab_size=int(teacher_config.get_text_config().vocab_size),
        teacher_hidden_size=int(teacher_config.get_text_config().hidden_size),
        teacher_identity=mixture_identity(teacher_identity(job, teacher), mixed_in),
        tokenizer_identity=tokenizer_identity(tokenizer),
        student_vocab_size=int(config.get_text_config().vocab_size),
        pad_id=int(pad if pad is not None else tokenizer.eos_token_id or 0),
        alignment=alignment_of(job, teacher_config, config),
        mixed_in=mixed_in,
        of_slices=find_of_slices(job, tokenizer, vocab_size, run.model_cache),
        scorer=find_scorer(job, run.model_cache),
    )


def _check_lengths(job: Job, teacher: Any, student: Any) -> None:
    wanted = job.data.sequence_length_tokens
    for side, config in (("teacher", teacher), ("student", student)):
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        # vLLM always writes a token more.
        room = 1 if side == "teacher" and job.teacher.engine == "vllm" else 0
        if context is not None and wanted + room > context:
            raise ModelError(
                f"data.sequence_length_tokens: {wanted} is longer than the {side}'s context of "
                f"{context} tokens{' leaves vLLM' if room else ''}; lower it to at most "
                f"{context - room}"
            )


def _check_shards(job: Job, teacher: Any) -> None:
    shards = job.teacher.tensor_parallel
    config = teacher.get_text_config()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if heads is not None and heads % shards:
            raise ModelError(
                f"teacher.tensor_parallel: {shards} shards do not divide the teacher's {heads} "
                f"{name}; choose a divisor of {heads}"
            )


def check_top_k(job: Job, vocab_size: int) -> None:
    """Refuse to keep more ids than there are.

    Raises:
        ModelError: Names the field.
    """
    for field, k in (
        ("soft_targets.top_k", job.soft_targets.top_k),
        ("evaluation.top_k", job.evaluation.top_k),
    ):
        # The default is no one's wish: a small vocabulary with another codec is fine.
        asked = field != "soft_targets.top_k" or job.soft_targets.codec == "top_k"
        if asked and k > vocab_size:
            raise ModelError(f"{field}: {k} is more than the {vocab_size} tokens there are")


def count_parameters(job: Job, run: RunDirectory) -> dict[str, int]:
    """Parameters of the teacher's models and the student, by their configurations alone."""
    import torch
    from transformers import AutoModelForCausalLM

    from raykd.models.init import student_config

    if job.method == "classifier":
        return encoders.count_parameters(job, run)
    at_hand, field = weights_at_hand(job)
    teacher = load_config(locate(at_hand, field, run.model_cache), f"{field}.model")
    init = job.student.init
    if isinstance(init, FromPretrained):
        student = load_config(locate(init, "student.init", run.model_cache), "student.init.model")
    else:
        student = student_config(init, teacher)
    sides = {"teacher": [teacher, *configs_beside(job, run.model_cache)], "student": [student]}
    with torch.device("meta"):
        return {
            side: sum(
                parameter.numel()
                for config in configs
                for parameter in AutoModelForCausalLM.from_config(config).parameters()
            )
            for side, configs in sides.items()
        }


def make_student(job: Job, run: RunDirectory, models: Models) -> ModelSource:
    """The student's first weights as a directory, made if need be."""
    from raykd.models.init import write_student

    if models.encoder is not None:
        return encoders.make(job, run, models)
    if models.pretrained is not None:
        return models.pretrained
    assert not isinstance(job.student.init, FromPretrained)
    return write_student(job.student.init, models.teacher, job.seed, run.initial_student)
