"""Drift: the distances against scipy and plain sets, the test against made-up corpora."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from raykd.evaluation import drift
from raykd.evaluation.drift_report import Compared, drift_of
from raykd.evaluation.pieces import Pieces

VOCAB = 60


def pieces_from(documents: list[list[int]]) -> Pieces:
    lengths = [len(document) for document in documents]
    return Pieces(
        np.array([token for document in documents for token in document], dtype=np.int64),
        np.repeat(np.arange(len(documents)), lengths),
        np.arange(len(documents)),
    )


def documents(num: int, seed: int, low: int = 0, shortest: int = 12) -> list[list[int]]:
    """Texts of a made-up language: each token is one of few that may follow the last."""
    draw = random.Random(seed)
    made = []
    for _ in range(num):
        token, text = draw.randrange(low, VOCAB - 20), []
        for _ in range(draw.randint(shortest, 40)):
            text.append(token)
            token = low + (token * 3 + draw.choice((1, 2, 5))) % (VOCAB - 20)
        made.append(text)
    return made


@pytest.fixture(scope="module")
def training() -> drift.Training:
    return drift.Training(pieces_from(documents(150, 1)), VOCAB)


def test_divergence_is_scipys() -> None:
    draw = np.random.default_rng(3)
    p, q = draw.random(40), draw.random(40)
    p[:10], q[5:15] = 0.0, 0.0
    p, q = p / p.sum(), q / q.sum()
    assert drift.js_divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    assert drift.js_divergence(p, p) == pytest.approx(0.0, abs=1e-12)
    assert drift.js_divergence(np.array([1.0, 0]), np.array([0.0, 1])) == pytest.approx(1.0)


def test_lengths_are_scipys(training: drift.Training) -> None:
    other = pieces_from(documents(50, 2, shortest=25))
    expected = ks_2samp(training.lengths_P, other.lengths).statistic
    assert training.length_distance(other.lengths) == pytest.approx(expected, abs=1e-12)


def test_unseen_ngrams_by_sets(training: drift.Training) -> None:
    known = {tuple(d[i : i + 3]) for d in documents(150, 1) for i in range(len(d) - 2)}
    sample = documents(30, 9, low=10)
    new, total = training.unseen(pieces_from(sample))
    for document, a, b in zip(sample, new, total, strict=True):
        runs = [tuple(document[i : i + 3]) for i in range(len(document) - 2)]
        assert (a, b) == (sum(run not in known for run in runs), len(runs))


def test_distances_of_a_division_are_those_of_its_sides(training: drift.Training) -> None:
    # So few that most of the training text's ids are in neither.
    ours, theirs = pieces_from(documents(1, 5, low=8)), pieces_from(documents(2, 6))
    found = drift.measures_of(training, theirs, ours, seed=0)
    for side, pieces in (("sample", ours), ("heldout", theirs)):
        counts = np.bincount(pieces.ids_N, minlength=VOCAB)
        new, total = training.unseen(pieces)
        expected = [
            jensenshannon(training.ids_V, counts / counts.sum(), base=2) ** 2,
            ks_2samp(training.lengths_P, pieces.lengths).statistic,
            new.sum() / total.sum(),
        ]
        assert [getattr(one, side) for one in found] == pytest.approx(expected, abs=1e-9)


def test_the_same_language_seldom_drifts(
    training: drift.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "DIVISIONS", 99)
    monkeypatch.setattr(drift, "P_DRIFT", 0.05)
    alarms = [
        one.drifted
        for seed in range(30)
        for one in drift.measures_of(
            training,
            pieces_from(documents(15, 1000 + seed)),
            pieces_from(documents(25, 2000 + seed)),
            seed,
        )
    ]
    # 90 tests at 5 %: more than 12 of them have a chance below 0.1 % where they are independent.
    assert sum(alarms) <= 12


@pytest.mark.parametrize(
    ("changed", "key"), [({"low": 12}, "drift_tokens"), ({"shortest": 35}, "drift_lengths")]
)
def test_another_language_drifts(
    training: drift.Training, changed: dict[str, int], key: str
) -> None:
    found = drift.measures_of(
        training, pieces_from(documents(40, 3)), pieces_from(documents(40, 4, **changed)), 0
    )
    by_key = {one.key: one for one in found}
    assert by_key[key].drifted
    assert by_key[key].p_value == pytest.approx(1 / 500)
    assert by_key[key].sample - by_key[key].heldout > by_key[key].noise


def test_the_rows_that_were_never_taught_are_named(training: drift.Training) -> None:
    strange = [[t % VOCAB for t in range(i, i + 29)] for i in range(3)]
    sample = pieces_from([*documents(20, 7), *strange, [1, 2]])
    found = drift_of(
        Compared(
            training=pieces_from(documents(150, 1)),
            training_read=1.0,
            heldout=pieces_from(documents(40, 3)),
            sample=sample,
            what="whole documents",
            vocab_size=VOCAB,
            seed=0,
        ),
        [f"file:{i}" for i in range(sample.num_pieces)],
        np.where(np.arange(sample.num_pieces) >= 20, 2.0, 0.5),
        lambda ids: " ".join(map(str, ids)),
    )
    assert {row.place for row in found.farthest[:3]} == {"file:20", "file:21", "file:22"}
    assert found.farthest[0].kl_to_teacher == 2.0
    assert (found.farthest[0].text or "").startswith(("0 1 2", "1 2 3", "2 3 4"))
    assert found.far_share >= 3 / sample.num_pieces
    assert found.kl_far is not None
    assert found.kl_near is not None
    assert found.kl_far > found.kl_near
    assert found.tokens
    assert all(one.in_sample > one.in_training for one in found.tokens)


def test_no_text_is_told_where_none_is_wanted(training: drift.Training) -> None:
    sample = pieces_from([[t % VOCAB for t in range(20)]])
    found = drift_of(
        Compared(
            pieces_from(documents(150, 1)),
            1.0,
            pieces_from(documents(40, 3)),
            sample,
            "prompts",
            VOCAB,
            0,
        ),
        ["file:1"],
        None,
        None,
    )
    assert found.tokens == []
    assert [row.text for row in found.farthest] == [None]
    assert found.kl_far is None


def test_large_samples_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_TOKENS", 100)
    bounded = drift._bounded(pieces_from(documents(50, 1)), np.random.default_rng(0))
    assert 1 <= bounded.num_pieces < 10
    assert len(bounded.ids_N) <= 100
    monkeypatch.setattr(drift, "MOST_TOKENS", 5)
    assert drift._bounded(pieces_from(documents(50, 1)), np.random.default_rng(0)).num_pieces == 1
