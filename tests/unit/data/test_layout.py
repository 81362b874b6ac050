from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.layout import BlockLayout


@st.composite
def layouts(draw: st.DrawFn) -> BlockLayout:
    first = draw(st.integers(0, 50))
    ranks = draw(st.integers(1, 6))
    return BlockLayout(
        first_step=first,
        last_step=first + draw(st.integers(0, 20)),
        global_batch=ranks * draw(st.integers(1, 5)),
        num_ranks=ranks,
        steps_per_block=draw(st.integers(1, 7)),
    )


def streams(layout: BlockLayout) -> list[list[int]]:
    """What each rank reads when blocks are dealt in turn."""
    dealt: list[list[int]] = [[] for _ in range(layout.num_ranks)]
    for block in range(layout.num_blocks):
        dealt[block % layout.num_ranks] += layout.places(block).tolist()
    return dealt


def steps_as_read(layout: BlockLayout) -> list[set[int]]:
    per_rank = layout.global_batch // layout.num_ranks
    dealt = streams(layout)
    return [
        {place for stream in dealt for place in stream[i * per_rank : (i + 1) * per_rank]}
        for i in range(layout.last_step - layout.first_step)
    ]


@settings(deadline=None)
@given(layouts())
def test_every_step_consumes_exactly_its_rows(layout: BlockLayout) -> None:
    batch = layout.global_batch
    wanted = [
        set(range(step * batch, (step + 1) * batch))
        for step in range(layout.first_step, layout.last_step)
    ]
    assert steps_as_read(layout) == wanted
    assert sum(map(len, streams(layout))) == batch * len(wanted)


@settings(deadline=None)
@given(layouts())
def test_every_rank_gets_equal_shares_and_as_many_blocks(layout: BlockLayout) -> None:
    lengths = {len(stream) for stream in streams(layout)}
    assert len(lengths) == 1
    assert layout.num_blocks % layout.num_ranks == 0


@settings(deadline=None)
@given(layouts())
def test_blocks_agree_with_rank_places(layout: BlockLayout) -> None:
    for block in range(layout.num_blocks):
        rank = block % layout.num_ranks
        parts = [layout.rank_places(rank, step) for step in layout.steps_of(block)]
        np.testing.assert_array_equal(layout.places(block), np.concatenate(parts))
        assert layout.rank_of(block) == rank


@settings(deadline=None)
@given(layouts())
def test_a_run_that_goes_on_scores_the_blocks_of_the_whole_run(layout: BlockLayout) -> None:
    whole = replace(layout, first_step=0)
    blocks_of_whole = {tuple(whole.places(block)) for block in range(whole.num_blocks)}
    for block in range(layout.num_blocks):
        scored = layout.whole_places(block)
        assert tuple(scored) in blocks_of_whole
        left = scored[scored >= layout.first_step * layout.global_batch]
        np.testing.assert_array_equal(layout.places(block), left)


def test_an_example_by_hand() -> None:
    layout = BlockLayout(first_step=3, last_step=7, global_batch=4, num_ranks=2, steps_per_block=2)
    assert [layout.places(block).tolist() for block in range(layout.num_blocks)] == [
        [12, 13],
        [14, 15],
        [16, 17, 20, 21],
        [18, 19, 22, 23],
        [24, 25],
        [26, 27],
    ]
    assert layout.whole_places(0).tolist() == [8, 9, 12, 13]
    assert list(layout.steps_of(0)) == [3]
    assert list(layout.whole_steps_of(0)) == [2, 3]
    assert list(layout.steps_of(5)) == [6]


def test_no_steps_are_no_blocks() -> None:
    assert BlockLayout(3, 3, 4, 2).num_blocks == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2, 4, 2, 1), "steps"),
        ((3, 2, 4, 2, 1), "steps"),
        ((0, 2, 0, 1, 1), "global_batch"),
        ((0, 2, 4, 0, 1), "num_ranks"),
        ((0, 2, 4, 2, 0), "steps_per_block"),
        ((0, 2, 5, 2, 1), r"5.*multiple.*2"),
    ],
)
def test_impossible_arguments(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockLayout(*arguments)


def test_places_outside_are_refused() -> None:
    layout = BlockLayout(1, 3, 4, 2)
    for wrong in (-1, layout.num_blocks):
        with pytest.raises(ValueError, match="block"):
            layout.places(wrong)
    with pytest.raises(ValueError, match="rank 2"):
        layout.rank_places(2, 1)
    with pytest.raises(ValueError, match="step 3"):
        layout.rank_places(0, 3)
