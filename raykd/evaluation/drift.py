"""Drift: does a sample differ from the training text by more than sampling noise?

The sample and held-out rows are compared with the training text by the same three measures. Then
both are shuffled together and divided anew many times: were they drawn alike, the real division
would be one among these.

N tokens, P pieces (documents, or parts of long ones), U distinct ids, L lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.evaluation.drift_data import Drift, DriftMeasure, Lengths
from raykd.evaluation.pieces import Ints, Pieces, joined

NGRAM: Final = 3
DIVISIONS: Final = 499
P_DRIFT: Final = 0.01
"""A measure has drifted where random divisions differ as much this seldom."""
MOST_PIECES: Final = 1000
MOST_TOKENS: Final = 250_000
"""Of each side, in the random divisions."""
FEWEST_NGRAMS: Final = 8
"""A piece with fewer is not called far."""

Floats = npt.NDArray[np.float64]
MEASURES: Final = (
    ("drift_tokens", "Tokens: Jensen-Shannon divergence, bits"),
    ("drift_lengths", "Lengths: Kolmogorov-Smirnov distance"),
    ("drift_ngrams", f"Never seen: share of {NGRAM}-token runs"),
)
"""Key and name, in the order that `Training.distances` gives them."""


def js_divergence(p_U: Floats, q_U: Floats) -> float:
    """Jensen-Shannon divergence of two distributions, in bits: 0 alike, 1 nothing in common.

    Source:
        Lin 1991, Divergence Measures Based on the Shannon Entropy, section III.
    """
    middle_U = (p_U + q_U) / 2
    return float((_relative(p_U, middle_U) + _relative(q_U, middle_U)).sum() / 2)


def _relative(p_U: Floats, q_U: Floats) -> Floats:
    """p log2(p / q), 0 where p is 0."""
    some_U = p_U > 0
    ratio_U = np.divide(p_U, q_U, out=np.ones_like(p_U), where=some_U)
    return p_U * np.log2(ratio_U)


class Training:
    """The training text, as far as the measures need it."""

    def __init__(self, pieces: Pieces, vocab_size: int) -> None:
        """Count its ids, lengths and n-grams.

        Args:
            pieces: At least one.
            vocab_size: Ids are below it.
        """
        self._vocab_size = vocab_size
        counts_V = np.bincount(pieces.ids_N, minlength=vocab_size)
        self.num_tokens = len(pieces.ids_N)
        self.lengths_P = pieces.lengths
        self.ids_V: Floats = counts_V / max(1, self.num_tokens)
        self._ngrams = np.unique(pieces.ngrams(NGRAM, vocab_size)[0])

    def unseen(self, pieces: Pieces) -> tuple[Ints, Ints]:
        """Of each piece: its n-grams that stand nowhere in the training text, and all of them."""
        keys, piece = pieces.ngrams(NGRAM, self._vocab_size)
        at = np.searchsorted(self._ngrams, keys)
        known = at < len(self._ngrams)
        known[known] = self._ngrams[at[known]] == keys[known]
        new_P = np.bincount(piece[~known], minlength=pieces.num_pieces)
        all_P = np.bincount(piece, minlength=pieces.num_pieces)
        return new_P.astype(np.int64), all_P.astype(np.int64)

    def length_distance(self, lengths_P: Ints) -> float:
        """Kolmogorov-Smirnov distance of two samples of lengths: 0 alike, 1 apart."""
        longest = int(max(self.lengths_P.max(), lengths_P.max()))
        ours_L, theirs_L = (
            np.cumsum(np.bincount(some, minlength=longest + 1)) / len(some)
            for some in (self.lengths_P, lengths_P)
        )
        return float(np.abs(ours_L - theirs_L).max())


class _Pool:
    """Sample and held-out pieces together, ready to be divided."""

    def __init__(self, training: Training, pieces: Pieces) -> None:
        self._training = training
        self._piece_N = pieces.piece_N
        self._lengths_P = pieces.lengths
        self._unseen_P, self._all_P = training.unseen(pieces)
        ids_U, self._id_N = np.unique(pieces.ids_N, return_inverse=True)
        self._training_U = training.ids_V[ids_U]
        self._counts_U = np.bincount(self._id_N, minlength=len(ids_U))

    def difference(self, in_sample_P: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The three distances of both sides of a division from the training text."""
        counts_U = np.bincount(
            self._id_N[in_sample_P[self._piece_N]], minlength=len(self._counts_U)
        )
        return (
            self._distances(in_sample_P, counts_U),
            self._distances(~in_sample_P, self._counts_U - counts_U),
        )

    def _distances(self, chosen_P: npt.NDArray[np.bool_], counts_U: Ints) -> Floats:
        found_U = counts_U / max(1, counts_U.sum())
        # Ids that only the training text has: half of their probability, in bits.
        elsewhere = (1.0 - self._training_U.sum()) / 2
        return np.array(
            [
                js_divergence(self._training_U, found_U) + elsewhere,
                self._training.length_distance(self._lengths_P[chosen_P]),
                self._unseen_P[chosen_P].sum() / max(1, self._all_P[chosen_P].sum()),
            ]
        )


def measures_of(
    training: Training, heldout: Pieces, sample: Pieces, seed: int
) -> list[DriftMeasure]:
    """The three measures, each against random divisions of sample and held-out rows.

    Args:
        training: What was learned.
        heldout: At least one piece, drawn as the training text was.
        sample: At least one piece.
        seed: Of the divisions.
    """
    draw = np.random.default_rng(seed)
    ours, theirs = (_bounded(pieces, draw) for pieces in (sample, heldout))
    pool = _Pool(training, joined([ours, theirs]))
    real_P = np.arange(ours.num_pieces + theirs.num_pieces) < ours.num_pieces
    sample_3, heldout_3 = pool.difference(real_P)
    chance = np.empty((DIVISIONS, len(MEASURES)))
    for i in range(DIVISIONS):
        one, other = pool.difference(draw.permutation(real_P))
        chance[i] = one - other
    real_3 = sample_3 - heldout_3
    # Equal differences come out a rounding apart, as the parts are summed in other orders.
    as_large_3 = (chance >= real_3 - 1e-12).sum(axis=0)
    p_3 = (1 + as_large_3) / (1 + DIVISIONS)
    noise_3 = np.quantile(chance, 0.95, axis=0)
    return [
        DriftMeasure(
            key=key,
            name=name,
            sample=float(sample_3[i]),
            heldout=float(heldout_3[i]),
            noise=float(noise_3[i]),
            p_value=float(p_3[i]),
            drifted=bool(p_3[i] <= P_DRIFT and real_3[i] > 0),
        )
        for i, (key, name) in enumerate(MEASURES)
    ]


def _bounded(pieces: Pieces, draw: np.random.Generator) -> Pieces:
    """At most MOST_PIECES random pieces of at most MOST_TOKENS together, but one at least."""
    order = draw.permutation(pieces.num_pieces)[:MOST_PIECES]
    fits = np.cumsum(pieces.lengths[order]) <= MOST_TOKENS
    return pieces.take(order[: max(1, int(fits.sum()))])


def new_tokens(training: Training, sample: Pieces, num: int) -> list[tuple[int, float, float]]:
    """The ids that add most to the divergence by standing in the sample more often.

    Returns:
        (id, share of the sample, share of the training text), what adds most first.
    """
    counts_V = np.bincount(sample.ids_N, minlength=len(training.ids_V))
    found_V = counts_V / counts_V.sum()
    adds_V = _relative(found_V, (found_V + training.ids_V) / 2)
    order = np.argsort(-adds_V, kind="stable")[:num]
    return [(int(i), float(found_V[i]), float(training.ids_V[i])) for i in order if adds_V[i] > 0]


@dataclass(frozen=True, eq=False)
class Far:
    """How far pieces are from the training text.

    Attributes:
        above: 99 % of held-out pieces have a share of unseen n-grams of at most this.
        share_P: The sample's; NaN where a piece is too short to say.
        far_P: Whether it is above.
    """

    above: float
    share_P: Floats
    far_P: npt.NDArray[np.bool_]

    def farthest(self, num: int, lengths_P: Ints) -> list[int]:
        """Far pieces, the farthest first; of equally far ones the longest."""
        order = np.lexsort((-lengths_P, -np.nan_to_num(self.share_P, nan=-1.0)))
        return [int(i) for i in order if self.far_P[i]][:num]


def far_pieces(training: Training, heldout: Pieces, sample: Pieces) -> Far:
    """Which pieces of a sample are unlike anything learned."""
    known = _shares(training, heldout)
    known = known[~np.isnan(known)]
    above = float(np.quantile(known, 0.99, method="higher")) if len(known) else 1.0
    share_P = _shares(training, sample)
    return Far(above, share_P, np.nan_to_num(share_P, nan=-1.0) > above)


def _shares(training: Training, pieces: Pieces) -> Floats:
    new_P, all_P = training.unseen(pieces)
    enough_P = all_P >= FEWEST_NGRAMS
    share_P: Floats = np.divide(new_P, all_P, out=np.full(len(all_P), np.nan), where=enough_P)
    return share_P


def lengths_of(lengths_P: Ints) -> Lengths:
    """Percentiles."""
    p5, p50, p95 = np.quantile(lengths_P, [0.05, 0.5, 0.95]).tolist()
    return Lengths(p5=p5, p50=p50, p95=p95)


def warnings_of(drift: Drift) -> Sequence[str]:
    """What a person should hear of it; nothing where nothing drifted."""
    if not drift.drifted:
        return []
    names = ", ".join(measure.name.split(":")[0].lower() for measure in drift.drifted)
    said = [
        f"drift: the sample is not like the training text, beyond sampling noise: {names}; "
        "figures on held-out rows do not speak for it"
    ]
    if drift.far_share > 0.05:
        said.append(
            f"drift: {drift.far_share:.0%} of its rows are unlike anything that was learned; "
            "teach the student on text like them"
        )
    return said
