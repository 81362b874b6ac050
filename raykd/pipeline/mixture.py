"""The models of a mixture, found and held against the first."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config.job import Job
from raykd.errors import ModelError
from raykd.models.identity import identity_of
from raykd.models.load import load_config, load_tokenizer, locate
from raykd.models.mixture import MixedIn
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
    found = []
    for i, config in enumerate(job.teacher.mixed_in):
        field = f"teacher.mixed_in.{i}"
        source = locate(config, field, cache)
        try:
            check_same_tokens(tokenizer, load_tokenizer(source, f"{field}.model"))
        except ModelError as error:
            raise ModelError(f"{field} (called student here): {error}") from None
        width = int(load_config(source, f"{field}.model").get_text_config().vocab_size)
        if width < vocab_size:
            raise ModelError(
                f"{field}.model: {width} logits a token, {vocab_size} are averaged; give a model "
                "of the teacher's vocabulary"
            )
        found.append(MixedIn(source, config.weight))
    return tuple(found)


def mixture_identity(first: str, mixed_in: tuple[MixedIn, ...]) -> str:
    """Of a teacher and what is mixed in; the teacher's own where nothing is."""
    if not mixed_in:
        return first
    parts = [first, *(f"{one.weight!r}:{identity_of(one.source)}" for one in mixed_in)]
    return hashlib.sha256("+".join(parts).encode()).hexdigest()
