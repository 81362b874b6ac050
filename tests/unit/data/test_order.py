from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.order import WINDOW_STEPS, RowOrder, mix


@st.composite
def orders(draw: st.DrawFn) -> RowOrder:
    num_rows = draw(st.integers(1, 300))
    lengths = draw(st.none() | st.lists(st.integers(8, 64), min_size=num_rows, max_size=num_rows))
    return RowOrder(
        num_rows=num_rows,
        epochs=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**63 - 1)),
        shuffle=draw(st.booleans()),
        lengths=None if lengths is None else np.array(lengths),
        global_batch=draw(st.integers(1, 9)),
    )


@settings(deadline=None)
@given(orders())
def test_each_epoch_reads_every_row_once(order: RowOrder) -> None:
    for epoch in range(order.epochs):
        rows = order.source_rows(epoch * order.num_rows, (epoch + 1) * order.num_rows)
        np.testing.assert_array_equal(np.sort(rows), np.arange(order.num_rows))


@settings(deadline=None)
@given(orders(), st.data())
def test_a_range_is_its_single_places(order: RowOrder, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, order.num_places + 5))
    stop = data.draw(st.integers(start, start + 40))
    single = [int(order.source_rows(place, place + 1)[0]) for place in range(start, stop)]
    ranged = order.source_rows(start, stop)
    assert ranged.tolist() == single
    assert ranged.dtype == np.int64


@settings(deadline=None)
@given(orders())
def test_past_the_last_epoch_are_fillers(order: RowOrder) -> None:
    end = order.num_rows * order.epochs
    assert order.source_rows(end - 1, end)[0] >= 0
    assert order.source_rows(end, end + 7).tolist() == [-1] * 7


@pytest.mark.parametrize("lengths", [None, np.arange(500) % 37])
def test_epochs_and_seeds_differ(lengths: np.ndarray | None) -> None:
    first = RowOrder(500, 3, seed=1, lengths=lengths, global_batch=4)
    other = RowOrder(500, 3, seed=2, lengths=lengths, global_batch=4)
    epochs = [first.source_rows(e * 500, (e + 1) * 500) for e in range(3)]
    epochs.append(other.source_rows(0, 500))
    for i, a in enumerate(epochs):
        for b in epochs[:i]:
            # Two random orders of 500 agree at one place on average, not at ten.
            assert np.sum(a == b) < 10


def test_the_same_seed_gives_the_same_order() -> None:
    a, b = (RowOrder(1000, 2, seed=7).source_rows(300, 1500) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_rows_are_spread_evenly() -> None:
    """Over many seeds each row is as likely as any other at each place (chi-squared)."""
    num_rows, num_seeds = 7, 4000
    counts = np.zeros((num_rows, num_rows))
    for seed in range(num_seeds):
        counts[np.arange(num_rows), RowOrder(num_rows, 1, seed).source_rows(0, num_rows)] += 1
    expected = num_seeds / num_rows
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    # 36 degrees of freedom: more than 77.4 has probability 1e-4.
    assert chi_squared < 77.4


def test_neighbours_in_the_corpus_do_not_stay_neighbours() -> None:
    rows = RowOrder(10_000, 1, seed=3).source_rows(0, 10_000)
    assert np.mean(np.abs(np.diff(rows)) == 1) < 0.002


def test_without_shuffle_the_corpus_order_stays() -> None:
    order = RowOrder(5, 2, seed=9, shuffle=False, lengths=np.array([5, 1, 4, 2, 3]))
    assert order.source_rows(0, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, -1, -1]


def test_a_step_has_rows_of_about_equal_length() -> None:
    batch, num_rows = 8, 8 * WINDOW_STEPS * 3 + 5
    lengths = np.random.default_rng(0).integers(8, 512, num_rows)
    order = RowOrder(num_rows, 1, seed=4, lengths=lengths, global_batch=batch)
    rows = order.source_rows(0, num_rows)
    steps = lengths[rows[: num_rows // batch * batch]].reshape(-1, batch)
    # Sorted windows of 256 rows over 504 lengths: 8 neighbours span 16 on average; unsorted 390.
    assert np.mean(steps.max(1) - steps.min(1)) < 50
    means = steps[:WINDOW_STEPS].mean(1)
    assert not np.all(np.diff(means) >= 0), "steps must not go from short to long"


def test_a_million_rows_take_seconds() -> None:
    order = RowOrder(1_000_003, 2, seed=5)
    begin = time.perf_counter()
    rows = order.source_rows(1_000_003, 2_000_006)
    assert time.perf_counter() - begin < 10
    assert len(np.unique(rows)) == 1_000_003


def test_mix_is_splitmix64() -> None:
    """The first outputs of splitmix64 from seed 1234567, as published with the algorithm."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in range(3)], dtype=np.uint64)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 0, "epochs": 1}, "positive"),
        ({"num_rows": 3, "epochs": 0}, "positive"),
        ({"num_rows": 3, "epochs": 1, "global_batch": 0}, "positive"),
        ({"num_rows": 3, "epochs": 1, "lengths": np.ones(2)}, "2 lengths for 3 rows"),
    ],
)
def test_impossible_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowOrder(seed=0, **arguments)


def test_an_impossible_range() -> None:
    with pytest.raises(ValueError, match="range"):
        RowOrder(3, 1, 0).source_rows(2, 1)
    with pytest.raises(ValueError, match="range"):
        RowOrder(3, 1, 0).source_rows(-1, 1)
