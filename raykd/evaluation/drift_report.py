"""From pieces of text to the report's account of drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.evaluation import drift
from raykd.evaluation.drift_data import Drift, DriftToken, FarRow
from raykd.evaluation.pieces import Pieces

NUM_FAR: Final = 10
NUM_NEW: Final = 10
EXCERPT_TOKENS: Final = 60


@dataclass(frozen=True, eq=False)
class Compared:
    """What drift is measured on.

    Attributes:
        training: Pieces of what was learned.
        training_read: Share of the training rows that they are from.
        heldout: Pieces that were kept out of it.
        sample: Pieces of what is measured.
        what: `whole documents` or `prompts`.
        vocab_size: Ids are below it.
        seed: Of the random divisions.
    """

    training: Pieces
    training_read: float
    heldout: Pieces
    sample: Pieces
    what: str
    vocab_size: int
    seed: int


def drift_of(
    compared: Compared,
    places: Sequence[str],
    row_kl: npt.NDArray[np.float64] | None,
    text: Callable[[Sequence[int]], str] | None,
) -> Drift:
    """Measure drift and tell where it is.

    Args:
        compared: The pieces; none of the three is empty.
        places: Of each row of the sample, where it stands.
        row_kl: Of each row of the sample, the student's mean divergence; NaN where it was not
            scored; None without a teacher.
        text: Turns ids into text; None leaves every text out.
    """
    training = drift.Training(compared.training, compared.vocab_size)
    sample, heldout = compared.sample, compared.heldout
    far = drift.far_pieces(training, heldout, sample)
    kl_P = np.full(sample.num_pieces, np.nan) if row_kl is None else row_kl[sample.row_P]
    return Drift(
        compared=compared.what,
        ngram=drift.NGRAM,
        training_tokens=training.num_tokens,
        training_read=compared.training_read,
        heldout_pieces=heldout.num_pieces,
        sample_pieces=sample.num_pieces,
        divisions=drift.DIVISIONS,
        measures=drift.measures_of(training, heldout, sample, compared.seed),
        lengths={
            "training": drift.lengths_of(training.lengths_P),
            "heldout": drift.lengths_of(heldout.lengths),
            "sample": drift.lengths_of(sample.lengths),
        },
        tokens=[] if text is None else _new_tokens(training, sample, text),
        far_above=far.above,
        far_share=float(far.far_P.mean()),
        kl_far=_mean(kl_P[far.far_P]),
        kl_near=_mean(kl_P[~far.far_P]),
        farthest=[
            _far_row(sample, piece, far, places, kl_P, text)
            for piece in far.farthest(NUM_FAR, sample.lengths)
        ],
    )


def _new_tokens(
    training: drift.Training, sample: Pieces, text: Callable[[Sequence[int]], str]
) -> list[DriftToken]:
    return [
        DriftToken(text=text([i]), in_sample=ours, in_training=theirs)
        for i, ours, theirs in drift.new_tokens(training, sample, NUM_NEW)
    ]


def _far_row(
    sample: Pieces,
    piece: int,
    far: drift.Far,
    places: Sequence[str],
    kl_P: npt.NDArray[np.float64],
    text: Callable[[Sequence[int]], str] | None,
) -> FarRow:
    ids = sample.ids_N[sample.piece_N == piece]
    return FarRow(
        place=places[int(sample.row_P[piece])],
        tokens=len(ids),
        unseen=float(far.share_P[piece]),
        kl_to_teacher=_mean(kl_P[piece : piece + 1]),
        text=None if text is None else text(ids[:EXCERPT_TOKENS].tolist()),
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
