"""Ids in two, three and four bytes; gaps; sorting."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd.soft_targets.ids import from_gaps, id_type, pack_ids, sort_rows, to_gaps, unpack_ids


@pytest.mark.parametrize(
    ("vocab_size", "kind"),
    [
        (1, pa.uint16()),
        (2**16, pa.uint16()),
        (2**16 + 1, pa.binary(3)),
        (2**24, pa.binary(3)),
        (2**24 + 1, pa.int32()),
    ],
)
def test_ids_take_the_bytes_they_need_and_come_back(vocab_size: int, kind: pa.DataType) -> None:
    assert id_type(vocab_size) == kind
    ids_TK = torch.tensor([[0, 1, 255], [256, 65535, vocab_size - 1]]).clamp(max=vocab_size - 1)
    for dtype in (torch.int32, torch.int64):
        packed = pack_ids(ids_TK.to(dtype), vocab_size)
        assert packed.element_size() * packed.numel() == kind.byte_width * ids_TK.numel()
        unpacked = unpack_ids(packed)
        assert unpacked.dtype == torch.int32
        assert unpacked.tolist() == ids_TK.tolist()
        assert unpack_ids(packed.flatten()).tolist() == ids_TK.flatten().tolist()


def test_three_bytes_are_lowest_first() -> None:
    assert pack_ids(torch.tensor([[0x010203]]), 2**17).tolist() == [[3, 2, 1]]


def test_four_bytes_are_not_copied() -> None:
    ids_TK = torch.tensor([[1, 2**25]], dtype=torch.int32)
    assert unpack_ids(ids_TK).data_ptr() == ids_TK.data_ptr()


def test_gaps_and_back() -> None:
    ids_TK = torch.tensor([[0, 3, 4], [7, 8, 65535]], dtype=torch.int32)
    gaps_TK = to_gaps(ids_TK)
    assert gaps_TK.tolist() == [[0, 3, 1], [7, 1, 65527]]
    assert torch.equal(from_gaps(gaps_TK), ids_TK)
    assert from_gaps(torch.empty(0, 3, dtype=torch.int32)).shape == (0, 3)


def test_corrupt_gaps_do_not_wrap_back_into_the_vocabulary() -> None:
    gaps_TK = torch.full((1, 257), 2**24 - 1, dtype=torch.int32)
    assert int(from_gaps(gaps_TK)[0, -1]) == 257 * (2**24 - 1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_sorted_each_by_itself(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    keys_TK = torch.randint(-(2**30), 2**30, (20, 33), generator=generator).to(dtype)
    sorted_TK = sort_rows(keys_TK)
    assert sorted_TK.dtype == dtype
    assert sorted_TK.tolist() == [sorted(row) for row in keys_TK.tolist()]
    assert np.shares_memory(keys_TK.numpy(), sorted_TK.numpy()) is False
