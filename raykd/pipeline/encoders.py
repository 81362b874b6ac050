"""The stages of `method: classifier`: its models found and made, its rows prepared and measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raykd.config.classifier import LABELLED, Pooling
from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.student import FromPretrained
from raykd.data.fingerprint import tokenizer_identity
from raykd.data.gold import GoldOf
from raykd.data.labelled import LabelSpec
from raykd.data.pack import PackingStats
from raykd.data.prepare import prepare, prepare_set
from raykd.errors import ModelError
from raykd.evaluation import classify
from raykd.evaluation.report_data import (
    STUDENT,
    TEACHER,
    UNTRAINED,
    ModelFacts,
    ModelScores,
    SetScores,
)
from raykd.models.encoder import EncoderSpec, encoder_config
from raykd.models.encoder_init import build_encoder, student_encoder_config, write_encoder
from raykd.models.identity import identity_of
from raykd.models.load import ModelSource, load_tokenizer, locate
from raykd.models.sentence import pooling_of, read_projection
from raykd.models.vocab import check_same_tokens, shared_vocab_size
from raykd.pipeline.run_dir import RunDirectory
from raykd.soft_targets.spec import CodecSpec
from raykd.student.checkpoint import latest, newest_good
from raykd.student.notes import add_note

if TYPE_CHECKING:
    from raykd.pipeline.stages import Measured, Models

FROM_SECOND_POSITION: Final = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet")
"""Model types whose first position id is the padding id and one: two positions are no text's."""


def find(job: Job, run: RunDirectory) -> Models:
    """Locate teacher and student, compare tokens, labels and widths.

    Raises:
        ModelError: Something is missing or does not fit; names the field.
    """
    from raykd.pipeline.stages import Models

    teacher = locate(job.teacher, "teacher", run.model_cache)
    tokenizer = load_tokenizer(teacher, "teacher.model")
    teacher_config = encoder_config(teacher, "teacher.model")
    encoder = _spec(job, teacher, teacher_config, tokenizer)
    pretrained, config = _student(job, run, teacher_config, encoder)
    if pretrained is not None:
        check_same_tokens(tokenizer, load_tokenizer(pretrained, "student.init.model"))
    vocab_size = shared_vocab_size(tokenizer, teacher_config, config)
    _check_lengths(job, teacher_config, config)
    of_vectors = encoder.task == "embedding"
    outputs = encoder.vector_width if of_vectors else encoder.num_outputs
    hidden = encoder.vector_width if encoder.with_hidden else 0
    return Models(
        teacher=teacher,
        pretrained=pretrained,
        num_tokens=len(tokenizer.get_vocab()),
        vocab_size=vocab_size,
        teacher_vocab_size=int(teacher_config.vocab_size),
        teacher_hidden_size=outputs + hidden,
        teacher_identity=identity_of(teacher),
        tokenizer_identity=tokenizer_identity(tokenizer),
        student_vocab_size=int(config.vocab_size),
        pad_id=int(tokenizer.pad_token_id or 0),
        encoder=encoder,
    )


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


def outputs_spec(job: Job, models: Models) -> CodecSpec:
    """How the teacher's outputs travel: one vector a learned position, in full width."""
    encoder = models.encoder
    assert encoder is not None, "the models of a classifier were found"
    facts = (encoder.task, encoder.pooling, encoder.with_hidden)
    return CodecSpec(
        codec="hidden",
        vocab_size=models.vocab_size,
        hidden_values="fp32",
        hidden_size=models.teacher_hidden_size,
        fingerprint=f"{models.teacher_identity}:{job.teacher.dtype}:{facts}",
    )


def gold_of(job: Job, rows: Path) -> GoldOf | None:
    """What is known of a set's rows; None where nothing is learned of it."""
    section = job.classifier
    return None if section is None or section.task == "embedding" else GoldOf(rows)


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
    return prepare(job, tokenizer, run.data, run.logs, must_exist=begun, labels=_label_spec(models))


def prepare_other(
    job: Job, models: Models, corpus: CorpusConfig, directory: Path, max_rows: int
) -> PackingStats:
    """The first rows of a corpus, read as the job's."""
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    labels = _label_spec(models)
    return prepare_set(corpus, job.data, tokenizer, directory, max_rows, labels=labels)


def _label_spec(models: Models) -> LabelSpec:
    assert models.encoder is not None
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


def measure(
    job: Job, models: Models, initial: ModelSource, student: Path, sets: dict[str, Path]
) -> Measured:
    """Measure teacher, untrained student and student on held-out rows with what is known of them.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        sets: Name of each set to its rows, scored where there is a teacher.
    """
    import torch

    from raykd.evaluation.compare import read_scored
    from raykd.pipeline.stages import Measured

    assert models.encoder is not None
    torch.set_num_threads(job.student.threads)
    asked = outputs_spec(job, models) if job.teacher.is_asked else None
    rows = {
        name: classify.read_rows(read_scored(file), models.encoder, asked)
        for name, file in sets.items()
    }
    facts: dict[str, ModelFacts] = {}
    scores: dict[str, dict[str, ModelScores]] = {name: {} for name in rows}
    for name, found in rows.items():
        if (of_teacher := classify.teacher_scores(found)) is not None:
            scores[name][TEACHER] = of_teacher
    for role, source in ((UNTRAINED, initial), (STUDENT, ModelSource(str(student)))):
        facts[role], measured = classify.measure_model(
            role, source, rows, models.encoder, job.student.dtype, job.student.device
        )
        for name, one in measured.items():
            scores[name][role] = one
    return Measured(
        facts,
        {
            name: SetScores(
                rows=found.table.num_rows,
                tokens=found.num_positions,
                top_k=0,
                task=models.encoder.task,
                models=scores[name],
            )
            for name, found in rows.items()
        },
    )
