"""Looking keys up, against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.store.index import PieceIndex

HALVES = st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])
KEYS = st.lists(st.tuples(HALVES, HALVES), max_size=12)


def as_keys(keys: list[tuple[int, int]]) -> np.ndarray:
    return np.array(keys, np.uint64).reshape(-1, 2)


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(st.lists(KEYS, max_size=3), max_size=5), asked=KEYS)
def test_the_first_one_added_wins(
    calls: list[list[list[tuple[int, int]]]], asked: list[tuple[int, int]]
) -> None:
    """Halves from a handful of values: keys that share one half, and keys that come twice."""
    index, expected, number = PieceIndex(), dict[tuple[int, int], tuple[int, int]](), 0
    for shards in calls:
        index.add([as_keys(keys) for keys in shards], list(range(number, number + len(shards))))
        for keys in shards:
            for row, key in enumerate(keys):
                expected.setdefault(key, (number, row))
            number += 1
    found, rows = index.find(as_keys(asked))
    for key, shard, row in zip(asked, found.tolist(), rows.tolist(), strict=True):
        assert (shard, row if shard >= 0 else 0) == expected.get(key, (-1, 0))
    assert len(index) >= len(expected)


def test_it_is_small_and_stays_in_few_runs() -> None:
    draw = np.random.default_rng(0)
    index = PieceIndex()
    keys = [draw.integers(0, 2**64, (100, 2), dtype=np.uint64) for _ in range(50)]
    for number, each in enumerate(keys):
        index.add([each], [number])
    assert len(index) == 5000
    assert index.num_bytes == 24 * 5000
    assert len(index._runs) <= 8
    for number, each in enumerate(keys):
        shards, rows = index.find(each)
        assert (shards == number).all()
        assert (rows == np.arange(100)).all()
