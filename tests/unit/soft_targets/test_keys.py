"""Keys depend on the row's own ids, the token's place and the seed; numbers of them are uniform."""

import numpy as np
import pytest
import torch

from raykd.soft_targets.keys import token_keys, uniform

ROWS = [np.array([5, 6, 7], dtype=np.int32), np.array([5, 6, 8, 9]), np.array([1])]
COUNTS = [2, 3, 0]
MASK_64 = 2**64 - 1


def splitmix64(state: int) -> int:
    """The generator's step as published, in whole numbers of any size."""
    z = (state + 0x9E3779B97F4A7C15) & MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)


def test_numbers_are_those_of_splitmix64() -> None:
    # Its first value from seed 0, from the published test vectors.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    keys = [0, 1, -1, 2**63 - 1, -(2**63), 123456789]
    found = uniform(torch.tensor(keys)).tolist()
    assert found == [(splitmix64(key & MASK_64) >> 11) / 2**53 for key in keys]


def test_a_row_has_its_keys_wherever_it_stands() -> None:
    keys_T = token_keys(ROWS, COUNTS, seed=3)
    assert keys_T.dtype == torch.int64
    assert keys_T.shape == (5,)
    alone = torch.cat(
        [token_keys([row], [count], 3) for row, count in zip(ROWS, COUNTS, strict=True)]
    )
    assert torch.equal(alone, keys_T)
    turned = token_keys(ROWS[::-1], COUNTS[::-1], 3)
    assert torch.equal(turned, torch.cat([keys_T[2:], keys_T[:2]]))
    # As many as are learned from: the first ones stay.
    assert torch.equal(token_keys(ROWS[:1], [1], 3), keys_T[:1])


def test_ids_place_and_seed_all_count_but_not_the_dtype() -> None:
    first, second = token_keys(ROWS[:1], [2], 3).tolist()
    others = {
        first,
        second,
        *token_keys([ROWS[0] + 1], [2], 3).tolist(),
        *token_keys([ROWS[0][:2]], [2], 3).tolist(),
        *token_keys(ROWS[:1], [2], 4).tolist(),
    }
    assert len(others) == 8
    assert token_keys([ROWS[0].astype(np.uint16)], [2], 3).tolist() == [first, second]


def test_no_rows_have_no_keys() -> None:
    assert token_keys([], [], 0).shape == (0,)
    with pytest.raises(ValueError, match="one count a row"):
        token_keys(ROWS, [1, 2], 0)


def test_numbers_of_a_rows_tokens_are_uniform_and_apart() -> None:
    numbers = uniform(token_keys([np.arange(3), np.arange(4)], [50_000, 50_000], 0)).numpy()
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # Standard error of a share of 1/20 among 100,000 is 0.0007; of a correlation 0.003.
    shares = np.histogram(numbers, bins=20, range=(0, 1))[0] / len(numbers)
    assert np.abs(shares - 0.05).max() < 5 * 0.0007
    for lag in (1, 2, 50_000):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 5 * 0.0045
