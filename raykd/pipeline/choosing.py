"""The task that judges what was written and lays down what is learned of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.config.job import Job
from raykd.data.fingerprint import corpus_facts
from raykd.errors import GenerationError, StorageError
from raykd.generation.coordinator import completions
from raykd.generation.provenance import generated_table, learned_table
from raykd.generation.samples import Sample
from raykd.generation.selection import counts, select
from raykd.models.identity import identity_of
from raykd.models.load import load_tokenizer
from raykd.pipeline import given
from raykd.pipeline.behind_endpoint import paid
from raykd.pipeline.models import Models
from raykd.pipeline.prompting import requests_of
from raykd.pipeline.rewarding import reward_model
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.writing import paid_folder, sampling_text, store_of, teacher_name

VERSION: Final = 1
"""Raise it when the same job would choose or lay down something else."""


def choose(job: Job, run: RunDirectory, models: Models) -> dict[str, Any]:
    """Judge what was written, lay down what is learned; one task on the cluster.

    Returns:
        What `generated.json` tells; the same as before where nothing has changed.

    Raises:
        GenerationError: No completion passed.
    """
    generation = job.generation
    assert generation is not None
    fingerprint = _fingerprint(job, models)
    if (known := read_summary(run)) and known["fingerprint"] == fingerprint:
        return known
    asked = requests_of(job)
    written = completions(asked, store_of(job, run, models))
    samples = [Sample(*pair) for pair in zip(asked, written, strict=True)]
    try:
        select(samples, generation, reward_model(job, models))
        _check_rendering(job, models, samples, learned_table(samples, generation.reasoning))
        if job.targets_are_given:
            given.judge(job, run, models, samples)
    finally:
        # What was dropped is what a person looks at when nothing is left.
        table = generated_table(samples, teacher_name(job, models), sampling_text(job))
        _publish(table, run.generated)
    learned = learned_table(samples, generation.reasoning)
    _publish(given.with_keys(learned, samples) if job.targets_are_given else learned, run.learned)
    told = _told(samples) | {"fingerprint": fingerprint}
    if spent := paid(job, paid_folder(job, run, models)):
        told["paid"] = spent
    aside = run.generated_summary.with_suffix(".aside")
    aside.write_text(json.dumps(told, indent=2) + "\n")
    aside.rename(run.generated_summary)
    return told


def _told(samples: list[Sample]) -> dict[str, Any]:
    """Counts of what was generated and what became of it."""
    return {
        "prompts": len({one.request.prompt for one in samples}),
        "completions": len(samples),
        "kept": sum(not one.dropped for one in samples),
        "dropped": {name: number for name, number in counts(samples).items() if number},
        "completion_tokens": sum(one.completion["completion_tokens"] or 0 for one in samples),
    }


def read_summary(run: RunDirectory) -> dict[str, Any] | None:
    """What a run generated; None where nothing was."""
    try:
        told: dict[str, Any] = json.loads(run.generated_summary.read_text())
    except (OSError, ValueError):
        return None
    return told if run.learned.is_file() else None


def _check_rendering(job: Job, models: Models, samples: list[Sample], learned: pa.Table) -> None:
    """A template that leaves out reasoning would teach something other than the job says."""
    assert job.generation is not None
    if job.generation.reasoning == "drop" or "messages" not in learned.column_names:
        return
    kept = [one for one in samples if not one.dropped]
    for one, row in zip(kept, learned.column("messages"), strict=True):
        if one.parts.reasoning is None:
            continue
        tokenizer: Any = load_tokenizer(models.teacher, "teacher.model")
        if one.parts.reasoning.strip() not in tokenizer.apply_chat_template(
            row.as_py(), tokenize=False
        ):
            raise GenerationError(
                f"generation.reasoning: {job.generation.reasoning}, but the chat template of "
                f"{models.teacher.path} leaves `<think>...</think>` out of what the assistant "
                "says; set `reasoning: drop`, or give the model another template"
            )
        return


def _publish(table: pa.Table, file: Path) -> None:
    """Write a table whole; one that lies there already stays, for rows know it by its time."""
    if file.is_file() and pq.read_table(file).equals(table):
        return
    aside = file.with_suffix(".aside")
    try:
        pq.write_table(table, aside)
        aside.rename(file)
    except OSError as error:
        raise StorageError(f"{file}: cannot be written ({error.strerror or error})") from None


def _fingerprint(job: Job, models: Models) -> str:
    assert job.generation is not None
    facts = {
        "version": VERSION,
        "generation": job.generation.model_dump(mode="json"),
        "seed": job.seed,
        "corpus": corpus_facts(job.data.corpus, "data.corpus"),
        "teacher": teacher_name(job, models),
        "tokenizer": models.tokenizer_identity,
    }
    if models.scorer is not None:
        facts["scorer"] = identity_of(models.scorer)
    if job.targets_are_given:
        facts["given"] = [models.vocab_size, job.data.append_eos]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
