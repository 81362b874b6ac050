"""Calibration: is a model right as often as it is sure?

T next-token predictions.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.evaluation.inspection_data import Calibration, CalibrationBin

NUM_BINS: Final = 15


def calibration_of(
    confidence_T: npt.NDArray[np.floating], correct_T: npt.NDArray[np.bool_]
) -> Calibration:
    """Expected calibration error over bins of equal width, with the bins.

    Args:
        confidence_T: Probability of the likeliest id, in [0, 1].
        correct_T: Whether that id is the one that follows.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, section 2.
    """
    sure_T = np.asarray(confidence_T, dtype=np.float64)
    right_T = np.asarray(correct_T, dtype=np.float64)
    bin_T = np.clip(np.ceil(sure_T * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    tokens, sure, right = (
        np.bincount(bin_T, weights=weights, minlength=NUM_BINS)
        for weights in (None, sure_T, right_T)
    )
    total = max(1, len(sure_T))
    return Calibration(
        ece=float(np.abs(right - sure).sum() / total),
        confidence=float(sure.sum() / total),
        accuracy=float(right.sum() / total),
        bins=[
            CalibrationBin(
                low=i / NUM_BINS,
                high=(i + 1) / NUM_BINS,
                tokens=int(tokens[i]),
                confidence=float(sure[i] / tokens[i]) if tokens[i] else None,
                accuracy=float(right[i] / tokens[i]) if tokens[i] else None,
            )
            for i in range(NUM_BINS)
        ],
    )
