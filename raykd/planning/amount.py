"""How much there is to learn from: rows, steps, tokens; known, or said to be unknown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from raykd.config.job import Job
from raykd.errors import RaykdError
from raykd.pipeline.plan import num_steps
from raykd.pipeline.run_dir import RunDirectory, load_run_job
from raykd.planning.encoder_models import learned_share

UNKNOWN = "unknown: give --rows N, or prepare the rows by starting the run"


@dataclass(frozen=True)
class Amount:
    """What the run goes through.

    Attributes:
        rows: Training rows of an epoch; None where unknown.
        steps: Optimizer steps of the run.
        row_tokens: Tokens of a row, padding included.
        learned_share: Of these, the share that is learned from.
        source: Where the rows' number comes from.
    """

    rows: int | None
    steps: int | None
    row_tokens: float
    learned_share: float
    source: str

    def tokens(self, job: Job) -> int | None:
        """Tokens of the whole run, padding included."""
        if self.steps is None:
            return None
        return round(self.steps * job.train.global_batch * self.row_tokens)

    def first_epoch_share(self, job: Job) -> float:
        """Share of the run that no earlier epoch went through."""
        if self.rows is None or self.steps is None:
            return 1.0
        return min(1.0, self.rows / (self.steps * job.train.global_batch))


ROWS_DEPEND_ON: Final = ("data", "seed", "evaluation", "generation", "classifier", "teacher")
"""Sections that decide which rows there are; the teacher by its slices and its tokenizer."""


def amount(job: Job, rows: int | None = None) -> Amount:
    """Count rows: those that a run of this job has prepared, else those given, else those bounded.

    Args:
        job: The job.
        rows: Training rows of an epoch, where the person knows.
    """
    length = float(job.data.sequence_length_tokens)
    share = 1.0 if job.classifier is None else learned_share(job)
    prepared = _prepared(job)
    if rows is not None:
        return Amount(rows, num_steps(job, rows), length, share, "--rows")
    if prepared is not None:
        count, all_tokens = prepared["rows"], prepared["tokens"] + prepared["tokens_padded"]
        return Amount(
            count,
            num_steps(job, count),
            all_tokens / count,
            prepared["tokens_learned"] / all_tokens,
            f"prepared in {RunDirectory.of(job).data}",
        )
    documents = job.data.corpus.max_documents
    if documents and job.generation is not None:
        documents *= job.generation.keep_best or job.generation.num_samples
    if documents and job.classifier is not None:
        documents *= 2 if _learns_pairs(job) else job.classifier.maskings
    if documents and job.data.packing == "pad" and job.data.long_documents != "split":
        most = max(1, round(documents * (1 - job.evaluation.heldout_fraction)))
        source = (
            f"at most: a row for each {_unit(job)}of data.corpus.max_documents, less those held out"
        )
        return Amount(most, num_steps(job, most), length, share, source)
    if job.train.max_steps is not None:
        source = f"{UNKNOWN}; train.max_steps bounds the run"
        return Amount(None, job.train.max_steps, length, share, source)
    return Amount(None, None, length, share, UNKNOWN)


def _unit(job: Job) -> str:
    """What a document becomes several of."""
    if job.generation is not None:
        return "completion "
    if _learns_pairs(job):
        return "text of a pair "
    return "masking " if job.classifier is not None and job.classifier.maskings > 1 else ""


def _learns_pairs(job: Job) -> bool:
    """Whether each document is two texts, a row each."""
    classifier, columns = job.classifier, job.data.corpus.columns
    return classifier is not None and classifier.task == "embedding" and bool(columns.text_pair)


def _prepared(job: Job) -> dict[str, Any] | None:
    """What `data/publish.py` says of the training rows, if this job's are there."""
    run = RunDirectory.of(job)
    try:
        before = load_run_job(run.root)
        stats = json.loads((run.data / "prepared.json").read_text(encoding="utf-8"))
        train: dict[str, Any] = stats["sets"]["train"]
    except (RaykdError, OSError, ValueError, KeyError, TypeError):
        return None
    if any(getattr(before, name) != getattr(job, name) for name in ROWS_DEPEND_ON):
        return None
    names = ("rows", "tokens", "tokens_padded", "tokens_learned")
    return train if all(type(train.get(name)) is int for name in names) and train["rows"] else None
