"""What prepared rows depend on: the job's data part, the files as they are, the tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config.corpus import CorpusConfig, DataConfig
from raykd.config.job import Job
from raykd.data.corpus import find_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREPARATION_VERSION = 1
"""Raise it when the same job would give other rows."""


def job_facts(job: Job) -> dict[str, Any]:
    """What all sets of a job depend on, but for the tokenizer."""
    evaluation = job.evaluation
    return {
        "corpus": corpus_facts(job.data.corpus, "data.corpus"),
        "data": data_facts(job.data),
        "seed": job.seed,
        "heldout_fraction": evaluation.heldout_fraction,
        "max_rows": evaluation.max_rows,
        "sets": {
            name: corpus_facts(corpus, f"evaluation.sets.{name}")
            for name, corpus in evaluation.sets.items()
        },
    }


def data_facts(data: DataConfig) -> dict[str, Any]:
    """How text becomes rows. The order of rows is no part of it."""
    return data.model_dump(mode="json", exclude={"corpus", "shuffle"})


def corpus_facts(corpus: CorpusConfig, field: str) -> dict[str, Any]:
    """The corpus as configured, and the size and time of each of its files.

    Raises:
        CorpusError: A source names nothing, or its format cannot be told.
    """
    paths: list[Path] = []
    for file in find_files(corpus, field):
        inner = sorted(p for p in file.path.rglob("*") if p.is_file())
        paths += inner if file.path.is_dir() else [file.path]
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    config = corpus.model_dump(mode="json")
    if corpus.columns.slice is None:
        # Rows of before slices had a column stay what they are.
        del config["columns"]["slice"]
    return {"config": config, "files": seen}


def fingerprint_of(facts: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """One SHA-256, in hexadecimal, over the facts and the tokenizer."""
    whole = {**facts, "version": PREPARATION_VERSION, "tokenizer": _tokenizer_facts(tokenizer)}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hexadecimal, of what decides a text's token ids."""
    return hashlib.sha256(
        json.dumps(_tokenizer_facts(tokenizer), sort_keys=True).encode()
    ).hexdigest()


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        machine = json.loads(backend.to_str())
        for setting in ("truncation", "padding"):  # changed by use, and not used here
            machine.pop(setting, None)
    else:
        machine = tokenizer.get_vocab()
    return {
        "class": type(tokenizer).__name__,
        "machine": machine,
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "chat_template": tokenizer.chat_template,
    }
