"""The stages of `method: classifier`: its models found, made and exported, its rows prepared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config.classifier import LABELLED, Pooling
from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.student import FromPretrained
from raykd.data.fingerprint import tokenizer_identity
from raykd.data.labelled import LabelSpec
from raykd.data.masked import MaskingSpec, Taught
from raykd.data.pack import PackingStats
from raykd.data.prepare import prepare, prepare_set
from raykd.errors import ModelError
from raykd.models.encoder import FROM_SECOND_POSITION, EncoderSpec, encoder_config
from raykd.models.encoder_init import build_encoder, student_encoder_config, write_encoder
from raykd.models.identity import identity_of
from raykd.models.load import ModelSource, load_tokenizer, locate
from raykd.models.masking import Masking
from raykd.models.sentence import pooling_of, read_projection
from raykd.models.vocab import check_same_tokens, shared_vocab_size
from raykd.pipeline.run_dir import RunDirectory
from raykd.student.checkpoint import latest, newest_good
from raykd.student.notes import add_note

if TYPE_CHECKING:
    from raykd.pipeline.models import Models


def find(job: Job, run: RunDirectory) -> Models:
    """Locate teacher and student, compare tokens, labels and widths.

    Raises:
        ModelError: Something is missing or does not fit; names the field.
    """
    from raykd.pipeline.models import Models, check_top_k

    teacher = locate(job.teacher, "teacher", run.model_cache)
    tokenizer = load_tokenizer(teacher, "teacher.model")
    teacher_config = encoder_config(teacher, "teacher.model")
    encoder = _spec(job, teacher, teacher_config, tokenizer)
    pretrained, config = _student(job, run, teacher_config, encoder)
    if pretrained is not None:
        check_same_tokens(tokenizer, load_tokenizer(pretrained, "student.init.model"))
    vocab_size = shared_vocab_size(tokenizer, teacher_config, config)
    _check_lengths(job, teacher_config, config)
    if encoder.task == "masked":
        if job.teacher.is_asked:
            check_top_k(job, vocab_size)
        encoder = replace(encoder, masking=_masking(tokenizer, vocab_size))
    return Models(
        teacher=teacher,
        pretrained=pretrained,
        num_tokens=len(tokenizer.get_vocab()),
        vocab_size=vocab_size,
        teacher_vocab_size=int(teacher_config.vocab_size),
        teacher_hidden_size=_vector_size(encoder),
        teacher_identity=identity_of(teacher),
        tokenizer_identity=tokenizer_identity(tokenizer),
        student_vocab_size=int(config.vocab_size),
        pad_id=int(tokenizer.pad_token_id or 0),
        encoder=encoder,
    )


def _vector_size(encoder: EncoderSpec) -> int:
    """Width of the vector in which the teacher's outputs and hidden states travel.

    A masked token's outputs are no vector.
    """
    hidden = encoder.vector_width if encoder.with_hidden else 0
    if encoder.task == "masked":
        return hidden
    outputs = encoder.vector_width if encoder.task == "embedding" else encoder.num_outputs
    return outputs + hidden


def _masking(tokenizer: Any, vocab_size: int) -> Masking:
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"teacher.model: its tokenizer ({tokenizer.name_or_path!r}) has no mask token, which "
            "`classifier.task: masked` puts in the place of tokens; choose an encoder that has one"
        )
    return Masking(int(tokenizer.mask_token_id), vocab_size)


def _student(
    job: Job, run: RunDirectory, teacher_config: Any, encoder: EncoderSpec
) -> tuple[ModelSource | None, Any]:
    """Where the student's weights are, if they are anywhere, and its configuration."""
    init, pretrained, config = job.student.init, None, None
    if isinstance(init, FromPretrained):
        pretrained = locate(init, "student.init", run.model_cache)
        config = encoder_config(pretrained, "student.init.model")
    return pretrained, student_encoder_config(init, teacher_config, config, encoder)


def _spec(job: Job, teacher: ModelSource, config: Any, tokenizer: Any) -> EncoderSpec:
    section = job.classifier
    assert section is not None, "the job was checked"
    pooling: Pooling | None = None
    width = int(config.hidden_size) if section.cosine > 0 else 0
    if section.task == "embedding":
        pooling = section.pooling or pooling_of(teacher) or "mean"
        matrix = read_projection(teacher)
        width = int(config.hidden_size) if matrix is None else len(matrix)
    return EncoderSpec(
        task=section.task,
        labels=_labels(job, config) if section.task in LABELLED else (),
        sep_token_id=tokenizer.sep_token_id,
        pooling=pooling,
        with_hidden=section.cosine > 0,
        vector_width=width,
    )


def _labels(job: Job, config: Any) -> tuple[str, ...]:
    """The labels' names: the job's, the teacher's, or those of both where they are the same.

    Raises:
        ModelError: They differ, or nobody names them.
    """
    section = job.classifier
    assert section is not None, "the job was checked"
    asked = tuple(section.labels)
    if not job.teacher.is_asked:
        if not asked:
            raise ModelError(
                "classifier.labels: missing; with `teacher.engine: none` nobody else names them"
            )
        return asked
    known = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    nameless = known == tuple(f"LABEL_{i}" for i in range(len(known)))
    if not asked and not nameless:
        return known
    if not asked:
        raise ModelError(
            f"classifier.labels: missing; the teacher has {len(known)} outputs and no names for "
            "them (`id2label`): name them in their order"
        )
    if known == asked or (nameless and len(known) == len(asked)):
        return asked
    raise ModelError(_differing(asked, known))


def _differing(asked: tuple[str, ...], known: tuple[str, ...]) -> str:
    sides = range(max(len(asked), len(known)))
    pairs = [(i, asked[i : i + 1], known[i : i + 1]) for i in sides]
    first = [(i, *map(_name, pair)) for i, *pair in pairs if pair[0] != pair[1]][:3]
    shown = "; ".join(f"output {i}: {ours} here, {theirs} there" for i, ours, theirs in first)
    return (
        f"classifier.labels: {len(asked)} labels here, the teacher has {len(known)}; first "
        f"differences: {shown}. Name the teacher's in its order, or leave `labels` out"
    )


def _name(part: tuple[str, ...]) -> str:
    return repr(part[0]) if part else "none"


def _check_lengths(job: Job, teacher: Any, student: Any) -> None:
    wanted = job.data.sequence_length_tokens
    for side, config in (("teacher", teacher), ("student", student)):
        context = getattr(config, "max_position_embeddings", None)
        if context is None:
            continue
        context -= 2 if config.model_type in FROM_SECOND_POSITION else 0
        if wanted > context:
            raise ModelError(
                f"data.sequence_length_tokens: {wanted} is longer than the {side}'s context of "
                f"{context} tokens; lower it to at most that"
            )


def make(job: Job, run: RunDirectory, models: Models) -> ModelSource:
    """The student's first weights, head included, as a directory; made if need be."""
    assert models.encoder is not None
    return write_encoder(
        job.student.init,
        models.teacher,
        models.pretrained,
        models.encoder,
        job.seed,
        run.initial_student,
        teacher_has_head=job.teacher.is_asked,
    )


def count_parameters(job: Job, run: RunDirectory) -> dict[str, int]:
    """Parameters of teacher and student, from their configurations; no weights are read."""
    import torch

    from raykd.models.encoder import with_task

    models = find(job, run)
    assert models.encoder is not None
    teacher = with_task(encoder_config(models.teacher, "teacher.model"), models.encoder)
    _, student = _student(job, run, encoder_config(models.teacher, "teacher"), models.encoder)
    with torch.device("meta"):
        return {
            side: sum(p.numel() for p in build_encoder(config, models.encoder).parameters())
            for side, config in (("teacher", teacher), ("student", student))
        }


def prepare_rows(job: Job, run: RunDirectory, models: Models) -> dict[str, PackingStats]:
    """Read and tokenize every corpus, with what is known of its texts."""
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    begun = latest(run.checkpoints) is not None
    labels = taught(job, models)
    return prepare(job, tokenizer, run.data, run.logs, must_exist=begun, labels=labels)


def prepare_other(
    job: Job, models: Models, corpus: CorpusConfig, directory: Path, max_rows: int
) -> PackingStats:
    """The first rows of a corpus, read as the job's."""
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    labels = taught(job, models)
    return prepare_set(corpus, job.data, tokenizer, directory, max_rows, labels=labels)


def taught(job: Job, models: Models) -> Taught:
    """What the job's classifier is taught of each text."""
    assert models.encoder is not None
    section = job.classifier
    assert section is not None, "the job was checked"
    if section.task == "masked":
        return MaskingSpec(section.mask_fraction, section.maskings, job.seed)
    return LabelSpec(models.encoder.task, models.encoder.labels)


def export(
    job: Job, run: RunDirectory, models: Models, initial: ModelSource, directory: Path
) -> int:
    """Write the newest checkpoint as a Hugging Face directory; returns the steps it has done."""
    from raykd.student.encoder_export import export_encoder

    assert models.encoder is not None
    found = newest_good(run.checkpoints, partial(add_note, run.logs))
    if found is None:
        raise ModelError(f"{run.checkpoints}: there is no checkpoint to export")
    export_encoder(job, initial, models.teacher, models.encoder, found, directory)
    return int(found.mark.step)
