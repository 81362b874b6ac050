"""What runs as one task on the cluster: models found, rows prepared and scored, student measured.

The driver only starts these and waits, so that its own memory stays flat.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raykd import schema
from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.student import FromPretrained
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords
from raykd.data.fingerprint import tokenizer_identity
from raykd.data.gold import with_gold
from raykd.data.pack import PackingStats
from raykd.data.prepare import open_rows, prepare, prepare_set
from raykd.data.stream import Score
from raykd.errors import CorpusError, ModelError
from raykd.evaluation import compare
from raykd.evaluation.report_data import STUDENT, UNTRAINED, ModelFacts, ModelScores, SetScores
from raykd.models.alignment import Alignment
from raykd.models.encoder import EncoderSpec
from raykd.models.load import ModelSource, load_config, load_tokenizer, locate
from raykd.models.mixture import MixedIn
from raykd.models.of_slices import OfSlices
from raykd.models.token_bytes import token_bytes
from raykd.models.vocab import check_same_tokens, shared_vocab_size
from raykd.pipeline import encoder_measure, encoders
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
from raykd.pipeline.targets import heldout_spec
from raykd.student.checkpoint import latest, newest_good
from raykd.student.notes import add_note

ROWS_A_REQUEST = 4
"""Held-out rows in one request to the teacher."""


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


def first_document(corpus: CorpusConfig, field: str) -> str:
    """Where the first readable document is.

    Raises:
        CorpusError: There is none.
    """
    for document in read_documents(corpus, BadRecords.of(corpus, field, None)):
        return document.place
    raise CorpusError(f"{field}: no document")


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


def prepare_rows(job: Job, run: RunDirectory, models: Models) -> dict[str, Any]:
    """Read, tokenize and pack every corpus; returns statistics by set."""
    if models.encoder is not None:
        told = encoders.prepare_rows(job, run, models)
        return {name: _told(one) for name, one in told.items()}
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    begun = latest(run.checkpoints) is not None
    stats = prepare(job, tokenizer, run.data, run.logs, must_exist=begun)
    return {name: _told(one) for name, one in stats.items()}


def _told(stats: PackingStats) -> dict[str, Any]:
    return {**stats.as_dict(), "sentence": stats.sentence()}


def prepare_other(
    job: Job, models: Models, corpus: CorpusConfig, directory: Path, max_rows: int
) -> dict[str, Any]:
    """The first rows of a corpus, packed as the job's; returns its statistics."""
    if models.encoder is not None:
        return _told(encoders.prepare_other(job, models, corpus, directory, max_rows))
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    return _told(prepare_set(corpus, job.data, tokenizer, directory, max_rows))


def score_set(
    score: Score | None,
    rows: Path,
    target: Path,
    max_rows: int | None = None,
    chosen: list[int] | None = None,
) -> int:
    """Have the teacher score rows and keep them, with what it says, in a file.

    Args:
        score: Whom to ask; None keeps the text alone, which no teacher can score.
        rows: Prepared rows.
        target: The file; it appears whole.
        max_rows: Only the first ones; None is all.
        chosen: Only these rows, in this order; None is the first ones.

    Returns:
        Rows scored; 0 where they had been scored before.
    """
    from raykd.store.scoring import close_all

    if target.is_file():
        return 0
    prepared = open_rows(rows)
    first = _all_rows(min(prepared.num_rows, max_rows or prepared.num_rows))
    numbers = first if chosen is None else _rows_numbered(chosen)
    table = prepared.take(numbers)
    try:
        scored = table if score is None else asyncio.run(_score_all(score, table, numbers))
        scored = with_gold(scored, rows, numbers)
    finally:
        close_all()
    aside = target.with_suffix(".aside")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, scored.schema) as writer:
        writer.write_table(scored)
    aside.rename(target)
    return int(table.num_rows)


def _all_rows(num_rows: int) -> Any:
    import numpy as np

    return np.arange(num_rows, dtype=np.int64)


def _rows_numbered(rows: list[int]) -> Any:
    import numpy as np

    return np.array(rows, dtype=np.int64)


async def _score_all(score: Score, table: pa.Table, numbers: Any) -> pa.Table:
    gate = asyncio.Semaphore(8)
    asked = table.append_column("source_row", pa.array(numbers, pa.int64()))

    async def one(part: pa.Table) -> pa.Table:
        async with gate:
            return await score(part)

    parts = [asked.slice(at, ROWS_A_REQUEST) for at in range(0, table.num_rows, ROWS_A_REQUEST)]
    targets = pa.concat_tables(await asyncio.gather(*(one(part) for part in parts)))
    names = [*schema.PREPARED.names, *targets.column_names]
    return pa.table([*table.columns, *targets.columns], names=names)


def export_student(
    job: Job, run: RunDirectory, models: Models, initial: ModelSource, directory: Path
) -> int:
    """Write the newest checkpoint as a Hugging Face directory; returns the steps it has done."""
    from raykd.student.export import export

    if models.encoder is not None:
        return encoders.export(job, run, models, initial, directory)
    found = newest_good(run.checkpoints, partial(add_note, run.logs))
    if found is None:
        raise ModelError(f"{run.checkpoints}: there is no checkpoint to export")
    export(job, initial, models.teacher, found, directory)
    return int(found.mark.step)


@dataclass(frozen=True)
class Measured:
    """Every model on every set."""

    models: dict[str, ModelFacts]
    sets: dict[str, SetScores]


def measure(
    job: Job,
    models: Models,
    initial: ModelSource,
    student: Path,
    sets: dict[str, Path],
) -> Measured:
    """Measure the untrained student and the student on held-out rows with targets.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        sets: Name of each set to its scored rows.
    """
    import torch

    if models.encoder is not None:
        return encoder_measure.measure(job, models, initial, student, sets)
    torch.set_num_threads(job.student.threads)
    rows = {name: compare.read_scored(file) for name, file in sets.items()}
    spec = heldout_spec(job, models)
    facts: dict[str, ModelFacts] = {}
    scores: dict[str, dict[str, ModelScores]] = {}
    for role, source in ((UNTRAINED, initial), (STUDENT, ModelSource(str(student)))):
        facts[role], scores[role] = compare.measure_model(
            role, source, rows, spec, job.student.dtype, job.student.device
        )
    return Measured(
        facts,
        {
            name: compare.set_scores(
                table, spec.top_k, {role: scores[role][name] for role in scores}
            )
            for name, table in rows.items()
        },
    )
