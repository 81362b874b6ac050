"""A task's own figures, from outputs and gold values; scikit-learn and scipy do the counting.

Shapes: P positions, C outputs, W gold values a position, Q pairs, D width of a vector.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.config.classifier import Task

Floats = npt.NDArray[np.float64]
ONE_OF: Final = ("single_label", "tokens")


def gold_metrics(task: Task, outputs_PC: Floats, gold_PW: Floats | None) -> dict[str, float]:
    """How well outputs fit what is known.

    Args:
        task: The task.
        outputs_PC: Logits, numbers or vectors.
        gold_PW: NaN where unknown; positions without a gold value are left out.

    Returns:
        By task: `accuracy` and `macro_f1`; `micro_f1`, `macro_f1` and `accuracy` (all of a text's
        labels right); `pearson`, `spearman` and `mse`; `recall_at_1` and `mrr` of each pair's
        second text among all second texts, by cosine, or `spearman` of cosine and likeness where
        pairs have one. Empty where nothing is known.
    """
    if gold_PW is None:
        return {}
    if task == "embedding":
        return _pairs(outputs_PC, gold_PW)
    known_P = ~np.isnan(gold_PW).any(1)
    if not known_P.any():
        return {}
    outputs_PC, gold_PW = outputs_PC[known_P], gold_PW[known_P]
    if task in ONE_OF:
        return _one_of(outputs_PC.argmax(1), gold_PW[:, 0].astype(np.int64))
    if task == "multi_label":
        return _many_of(outputs_PC > 0, gold_PW > 0.5)
    return _numbers(outputs_PC[:, 0], gold_PW[:, 0])


def agreement(
    task: Task, student_PC: Floats, teacher_PC: Floats
) -> tuple[float | None, float | None, dict[str, float]]:
    """How close a student's outputs are to its teacher's, at temperature 1.

    Returns:
        Mean KL in nats (`multi_label`: the mean over labels too) and the share of positions with
        the same labels, both None where outputs are no labels; and what else there is to say:
        `mse_to_teacher` or `cosine_to_teacher`.
    """
    if not len(student_PC):
        return None, None, {}
    far_P, agreed_P = distances(task, student_PC, teacher_PC)
    mean = float(far_P.mean())
    if task == "embedding":
        return None, None, {"cosine_to_teacher": 1.0 - mean}
    if task == "regression":
        return None, None, {"mse_to_teacher": mean}
    assert agreed_P is not None, "a task of labels"
    return mean, float(agreed_P.mean()), {}


def distances(
    task: Task, student_PC: Floats, teacher_PC: Floats
) -> tuple[Floats, npt.NDArray[np.bool_] | None]:
    """How far a student's outputs are from its teacher's at each position, at temperature 1.

    Returns:
        KL in nats (`multi_label`: its mean over the labels), squared difference (`regression`), or
        1 - cosine (`embedding`); and whether both have the same labels, None where outputs are no
        labels.
    """
    if task == "embedding":
        return 1.0 - (_unit(student_PC) * _unit(teacher_PC)).sum(1), None
    if task == "regression":
        return np.square(student_PC - teacher_PC).mean(1), None
    if task == "multi_label":
        agreed_P = ((student_PC > 0) == (teacher_PC > 0)).all(1)
        # Two outcomes are a softmax over the logit and 0.
        student, teacher = (np.stack([x, np.zeros_like(x)], -1) for x in (student_PC, teacher_PC))
    else:
        agreed_P = student_PC.argmax(1) == teacher_PC.argmax(1)
        student, teacher = student_PC[:, None], teacher_PC[:, None]
    log_q, log_p = _log_softmax(student), _log_softmax(teacher)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(1), agreed_P


def probabilities(task: Task, outputs_PC: Floats) -> Floats:
    """Of each label [P, C], at temperature 1: of one among them, or of each alone."""
    if task == "multi_label":
        outputs_PC = np.stack([outputs_PC, np.zeros_like(outputs_PC)], -1)
        return np.asarray(np.exp(_log_softmax(outputs_PC))[..., 0])
    return np.asarray(np.exp(_log_softmax(outputs_PC)))


def _one_of(found_P: npt.NDArray[np.int64], gold_P: npt.NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    return {
        "accuracy": float((found_P == gold_P).mean()),
        "macro_f1": float(f1_score(gold_P, found_P, average="macro", zero_division=0.0)),
    }


def _many_of(found_PC: npt.NDArray[np.bool_], gold_PC: npt.NDArray[np.bool_]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    return {
        "micro_f1": float(f1_score(gold_PC, found_PC, average="micro", zero_division=0.0)),
        "macro_f1": float(f1_score(gold_PC, found_PC, average="macro", zero_division=0.0)),
        "accuracy": float((found_PC == gold_PC).all(1).mean()),
    }


def _numbers(found_P: Floats, gold_P: Floats) -> dict[str, float]:
    return {
        "pearson": _correlation("pearsonr", found_P, gold_P),
        "spearman": _correlation("spearmanr", found_P, gold_P),
        "mse": float(np.square(found_P - gold_P).mean()),
    }


def _correlation(name: str, found: Floats, gold: Floats) -> float:
    """0 where one side does not vary: nothing can be told of the other by it."""
    from scipy import stats

    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(gold) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=stats.NearConstantInputWarning)
        return float(getattr(stats, name)(found, gold).statistic)


def _pairs(vectors_PD: Floats, gold_PW: Floats) -> dict[str, float]:
    """Of texts that came in pairs: gold values are the pair's number, the side, the likeness."""
    sides = [
        {int(number): at for at, (number, side, _) in enumerate(gold_PW) if side == which}
        for which in (0, 1)
    ]
    both = sorted(sides[0].keys() & sides[1].keys())
    if not both:
        return {}
    first, second = ([side[number] for number in both] for side in sides)
    cosines_QQ = _unit(vectors_PD[first]) @ _unit(vectors_PD[second]).T
    likeness_Q = gold_PW[first, 2]
    if not np.isnan(likeness_Q).any():
        return {"spearman": _correlation("spearmanr", np.diag(cosines_QQ), likeness_Q)}
    # Ties count against the model: what is as near as the right one comes first.
    rank_Q = (cosines_QQ >= np.diag(cosines_QQ)[:, None]).sum(1)
    return {"recall_at_1": float((rank_Q == 1).mean()), "mrr": float((1.0 / rank_Q).mean())}


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(lengths, 1e-12)
    return unit


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised
