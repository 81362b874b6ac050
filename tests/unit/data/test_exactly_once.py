"""However a run is stopped and taken up again, each row is learned from exactly once an epoch.

Pure arithmetic: the order, the layout and the deal of blocks, over a million rows and more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.layout import BlockLayout
from raykd.data.order import RowOrder

MOST_ROWS = 1_000_000


@st.composite
def stops(draw: st.DrawFn, num_steps: int) -> list[int]:
    """Steps after which the run stands still, some of them twice."""
    return sorted(draw(st.lists(st.integers(0, num_steps), max_size=6)))


def learned(
    order: RowOrder,
    num_steps: int,
    batch: int,
    lives: list[tuple[int, int, int]],
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Steps and the places their ranks got, life after life.

    Args:
        order: Of the run.
        num_steps: Of the run.
        batch: Rows of a step.
        lives: (first step, ranks, steps in a block) of each.
    """
    for life, (first, ranks, per_block) in enumerate(lives):
        stop = lives[life + 1][0] if life + 1 < len(lives) else num_steps
        layout = BlockLayout(first, num_steps, batch, ranks, per_block)
        dealt: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(ranks)]
        num_rounds = -(-(stop - first) // per_block) + 1
        for block in range(min(layout.num_blocks, num_rounds * ranks)):
            dealt[block % ranks].append(layout.places(block))
        streams = [np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in dealt]
        each = batch // ranks
        for step in range(first, stop):
            at = (step - first) * each
            yield step, np.concatenate([stream[at : at + each] for stream in streams])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_stopped_anywhere_with_any_ranks(data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=7))
    batch = 24 * data.draw(st.integers(1, 200))
    order = RowOrder(
        num_rows=data.draw(st.integers(1, MOST_ROWS)),
        epochs=data.draw(st.integers(1, 3)),
        seed=data.draw(st.integers(0, 2**63 - 1)),
    )
    # As many steps as can be looked at in a moment, from any place of the run.
    all_steps = -(-order.num_places // batch)
    begin = data.draw(st.integers(0, max(0, all_steps - 40)))
    num_steps = min(all_steps, begin + 40)
    cuts = [begin, *(begin + cut for cut in data.draw(stops(num_steps - begin)))][: len(ranks)]
    lives = [
        (cut, ranks[i], data.draw(st.integers(1, 7), label="steps per block"))
        for i, cut in enumerate(cuts)
    ]
    seen = dict(learned(order, num_steps, batch, lives))
    assert sorted(seen) == list(range(begin, num_steps))
    for step, places in seen.items():
        assert np.array_equal(np.sort(places), np.arange(step * batch, (step + 1) * batch))


@settings(deadline=None, max_examples=5)
@given(
    num_rows=st.integers(MOST_ROWS // 2, MOST_ROWS),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 2**63 - 1),
    read_at_once=st.integers(1_000, 400_000),
)
def test_a_million_rows_each_once_an_epoch(
    num_rows: int, epochs: int, seed: int, read_at_once: int
) -> None:
    order = RowOrder(num_rows, epochs, seed)
    parts = [
        order.source_rows(at, min(at + read_at_once, order.num_places))
        for at in range(0, order.num_places, read_at_once)
    ]
    sources = np.concatenate(parts)
    for epoch in range(epochs):
        one = sources[epoch * num_rows : (epoch + 1) * num_rows]
        assert np.array_equal(np.bincount(one, minlength=num_rows), np.ones(num_rows))
    # A place means the same, however the run came there.
    middle = order.num_places // 2
    stop = min(middle + 1000, order.num_places)
    assert np.array_equal(order.source_rows(middle, stop), sources[middle:stop])
