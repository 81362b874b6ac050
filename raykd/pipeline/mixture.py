"""The models beside the teacher: of a mixture, or of slices; found and held against the first."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config.job import Job
from raykd.config.model import ModelConfig
from raykd.config.of_slices import shared_models
from raykd.errors import ModelError
from raykd.models.identity import identity_of
from raykd.models.load import ModelSource, load_config, load_tokenizer, locate
from raykd.models.mixture import MixedIn
from raykd.models.of_slices import OfSlices
from raykd.models.vocab import check_same_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def find_mixed_in(
    job: Job, tokenizer: PreTrainedTokenizerBase, vocab_size: int, cache: Path
) -> tuple[MixedIn, ...]:
    """Locate the models that are mixed in.

    Args:
        job: The run's.
        tokenizer: The teacher's.
        vocab_size: Width of the logits that teacher and student share.
        cache: Where converted weights go.

    Raises:
        ModelError: One is missing, or says something of other tokens; names the field.
    """
    return tuple(
        MixedIn(_found(one, f"teacher.mixed_in.{i}", job, tokenizer, vocab_size, cache), one.weight)
        for i, one in enumerate(job.teacher.mixed_in)
    )


def find_of_slices(
    job: Job, tokenizer: PreTrainedTokenizerBase, vocab_size: int, cache: Path
) -> tuple[OfSlices, ...]:
    """Locate the models that teach slices, each once.

    Args:
        job: The run's.
        tokenizer: The teacher's.
        vocab_size: Width of the logits that teacher and student share.
        cache: Where converted weights go.

    Raises:
        ModelError: One is missing, or says something of other tokens; names the field.
    """
    found = []
    for one in shared_models(job.teacher.of_slices):
        source = _found(one.config, one.field, job, tokenizer, vocab_size, cache)
        found.append(OfSlices(one.slices, source, identity_of(source)))
    return tuple(found)


def configs_beside(job: Job, cache: Path) -> list[Any]:
    """Configurations of the models that a replica holds beside the first; no weights are read."""
    named: list[tuple[str, ModelConfig]] = [
        *((f"teacher.mixed_in.{i}", one) for i, one in enumerate(job.teacher.mixed_in)),
        *((one.field, one.config) for one in shared_models(job.teacher.of_slices)),
    ]
    return [load_config(locate(one, field, cache), f"{field}.model") for field, one in named]


def _found(
    model: ModelConfig,
    field: str,
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    cache: Path,
) -> ModelSource:
    """A model that reads the teacher's rows and says something of the same ids."""
    source = locate(model, field, cache)
    try:
        check_same_tokens(tokenizer, load_tokenizer(source, f"{field}.model"))
    except ModelError as error:
        raise ModelError(f"{field} (called student here): {error}") from None
    config = load_config(source, f"{field}.model").get_text_config()
    width = int(config.vocab_size)
    if width < vocab_size:
        raise ModelError(
            f"{field}.model: {width} logits a token, {vocab_size} are learned from; give a model "
            "of the teacher's vocabulary"
        )
    _check_fits(job, config, f"{field}.model")
    return source


def _check_fits(job: Job, config: Any, field: str) -> None:
    """Rows within its context, shards that divide its heads."""
    wanted = job.data.sequence_length_tokens
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and wanted > context:
        raise ModelError(
            f"{field}: data.sequence_length_tokens: {wanted} is longer than its context of "
            f"{context} tokens; lower it to at most {context}"
        )
    shards = job.teacher.tensor_parallel
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if heads is not None and heads % shards:
            raise ModelError(
                f"{field}: teacher.tensor_parallel: {shards} shards do not divide its {heads} "
                f"{name}; choose a divisor of {heads}"
            )


def mixture_identity(first: str, mixed_in: tuple[MixedIn, ...]) -> str:
    """Of a teacher and what is mixed in; the teacher's own where nothing is."""
    if not mixed_in:
        return first
    parts = [first, *(f"{one.weight!r}:{identity_of(one.source)}" for one in mixed_in)]
    return hashlib.sha256("+".join(parts).encode()).hexdigest()


def slices_identity(first: str, of_slices: tuple[OfSlices, ...]) -> str:
    """Of all who teach a job's rows, each its slices; the teacher's own where it is alone."""
    if not of_slices:
        return first
    parts = [first, *(f"{one.slices!r}:{one.identity}" for one in of_slices)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
