"""A sample's drift from a run's training rows: the rows read, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.config.job import Job
from raykd.data.rows import open_rows
from raykd.errors import StorageError
from raykd.evaluation.drift_data import Drift
from raykd.evaluation.drift_report import Compared, drift_of
from raykd.evaluation.pieces import Pieces, joined, pieces_of
from raykd.evaluation.worst_rows import Text
from raykd.pipeline.models import Models

MOST_TRAINING_TOKENS: Final = 20_000_000
"""Of the training text; rows evenly spread where it has more."""
ROWS_A_READ: Final = 1024


def drift_of_sample(
    job: Job,
    models: Models,
    data: Path,
    sample_rows: Path,
    places: Sequence[str],
    row_kl: npt.NDArray[np.float64] | None,
    notes: list[str],
    text: Text | None,
) -> Drift | None:
    """Drift of the whole sample; None, and a note, where there is nothing to compare with.

    Args:
        job: The run's.
        models: The run's.
        data: Prepared sets of the run, `train` and `heldout` among them.
        sample_rows: The prepared sample.
        places: Of each of its rows, where it stands.
        row_kl: The student's mean divergence in each row; NaN where it was not measured.
        notes: Where a note goes.
        text: Turns ids into text; None leaves every text out.
    """
    prompts = job.generation is not None or job.data.corpus.columns.text is None
    try:
        copies = job.classifier.maskings if job.classifier is not None else 1
        training, share = _read(data / "train", MOST_TRAINING_TOKENS, prompts, copies)
        heldout, _ = _read(data / "heldout", MOST_TRAINING_TOKENS, prompts, copies)
    except StorageError as error:
        notes.append(f"drift was not measured: {error}")
        return None
    sample, _ = _read(sample_rows, MOST_TRAINING_TOKENS, prompts)
    if not (training.num_pieces and heldout.num_pieces and sample.num_pieces):
        notes.append("drift was not measured: the rows hold no prompts to compare")
        return None
    compared = Compared(
        training=training,
        training_read=share,
        heldout=heldout,
        sample=sample,
        what="prompts" if prompts else "whole documents",
        vocab_size=max(models.vocab_size, models.num_tokens),
        seed=job.seed,
    )
    return drift_of(compared, places, row_kl, text)


def _read(
    directory: Path, most_tokens: int, prompts: bool, copies: int = 1
) -> tuple[Pieces, float]:
    """Pieces of a prepared set, and the share of its texts that they are from.

    Of a text that is there `copies` times, one row after the other, the first is read: the others
    are no other texts, and would make noise look smaller than it is.
    """
    rows = open_rows(directory)
    first = np.arange(0, rows.num_rows, copies)
    num_tokens = int(rows.lengths[first].sum(dtype=np.int64))
    wanted = max(1, len(first) * min(1, most_tokens / max(1, num_tokens)))
    chosen = first[np.unique(np.linspace(0, len(first) - 1, int(wanted)).astype(np.int64))]
    parts = [
        pieces_of(rows.take(chosen[i : i + ROWS_A_READ]), prompts=prompts)
        for i in range(0, len(chosen), ROWS_A_READ)
    ]
    return _numbered(parts, chosen), len(chosen) / len(first)


def _numbered(parts: Sequence[Pieces], chosen: npt.NDArray[np.int64]) -> Pieces:
    """Pieces of consecutive reads; their rows get the set's own numbers."""
    rows = [
        Pieces(part.ids_N, part.piece_N, chosen[part.row_P + i * ROWS_A_READ])
        for i, part in enumerate(parts)
    ]
    return joined(rows)
