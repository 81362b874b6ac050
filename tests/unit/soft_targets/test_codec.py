"""Columns there and back, and what happens to broken ones."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd.errors import SoftTargetError
from raykd.schema import SOFT_TARGETS
from raykd.soft_targets.codec import columns_to_targets, targets_to_columns
from raykd.soft_targets.top_k import TopKTargets, encode_top_k

K, V = 3, 10
TEMPERATURES = (1.0, 2.0)
LENGTHS = [4, 0, 2]
COLUMNS = ("ids_TK", "logprobs_TK", "log_tail_TN", "label_logprobs_T")


def some_targets(k: int = K) -> TopKTargets:
    generator = torch.Generator().manual_seed(3)
    logits_TV = 2 * torch.randn(sum(LENGTHS), V, generator=generator)
    logits_TV[0, 5:] = -math.inf
    return encode_top_k(logits_TV, torch.arange(sum(LENGTHS)) % 5, k, TEMPERATURES)


def some_table(k: int = K) -> pa.Table:
    mask = [[1, 0, 1, 1, 1], [0, 0], [1, 1]]
    return (
        pa.table(targets_to_columns(some_targets(k).split(LENGTHS)))
        .append_column("loss_mask", pa.array(mask, type=pa.list_(pa.uint8())))
        .append_column("row", pa.array([40, 41, 42]))
    )


def read(table: pa.Table) -> TopKTargets:
    return columns_to_targets(table, K, len(TEMPERATURES), vocab_size=V)


def assert_same(a: TopKTargets, b: TopKTargets) -> None:
    for name in COLUMNS:
        assert torch.equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("k", [1, K, V])
def test_there_and_back(k: int) -> None:
    table = some_table(k)
    assert_same(columns_to_targets(table, k, 2, vocab_size=V), some_targets(k))


def test_the_columns_are_the_declared_ones() -> None:
    for rows in (some_targets().split(LENGTHS), []):
        table = pa.table(targets_to_columns(rows))
        assert table.schema.equals(SOFT_TARGETS)
        assert table.num_rows == len(rows)


def test_slices_and_chunks_read_the_same() -> None:
    table = some_table()
    whole = some_targets()
    assert_same(read(table.slice(2)), whole.split(LENGTHS)[2])
    assert_same(read(pa.concat_tables([table.slice(0, 1), table.slice(1)])), whole)


def test_no_rows_and_rows_without_tokens_read_as_none() -> None:
    table = some_table()
    for empty in (table.slice(0, 0), table.slice(1, 1), table.schema.empty_table()):
        targets = read(empty)
        assert targets.ids_TK.shape == (0, K)
        assert targets.log_tail_TN.shape == (0, 2)


def test_one_chunk_is_read_without_a_copy() -> None:
    table = some_table().combine_chunks()
    values = table.column("target_logprobs").chunk(0).flatten()
    address = values.buffers()[1].address + 4 * values.offset
    assert read(table).logprobs_TK.data_ptr() == address


def test_columns_stay_alive_with_their_tensors() -> None:
    targets = read(some_table())
    junk = [torch.randn(6, K) for _ in range(50)]
    assert_same(targets, some_targets())
    del junk


Corrupt = Callable[[np.ndarray], None]


def put(at: int, value: float) -> Corrupt:
    def corrupt(values: np.ndarray) -> None:
        values[at] = value

    return corrupt


def swap(a: int, b: int) -> Corrupt:
    def corrupt(values: np.ndarray) -> None:
        values[[a, b]] = values[[b, a]]

    return corrupt


def corrupted(name: str, corrupt: Corrupt) -> pa.Table:
    table = some_table()
    lists = table.column(name).chunk(0)
    values = lists.values.to_numpy().copy()
    corrupt(values)
    column = pa.ListArray.from_arrays(lists.offsets, pa.array(values))
    return table.set_column(table.column_names.index(name), name, column)


# Row 42 holds tokens 4 and 5; its second token's K values lie from 5 * K.
@pytest.mark.parametrize(
    ("name", "corrupt", "complaint"),
    [
        ("target_ids", put(5 * K, V), "ids reach from .* allowed are 0 to 9"),
        ("target_ids", put(5 * K, -1), "ids reach from -1"),
        ("target_ids", lambda ids: ids.put(5 * K, ids[5 * K + 1]), "twice"),
        ("target_logprobs", put(5 * K, 0.5), "greatest log probability"),
        ("target_logprobs", put(5 * K, math.nan), "greatest log probability"),
        ("target_logprobs", put(5 * K + 1, math.nan), "NaN or are not likeliest"),
        ("target_logprobs", swap(5 * K, 5 * K + 2), "not likeliest first"),
        ("target_logprobs", put(5 * K + 2, -math.inf), "add up to"),
        ("target_log_tail", put(5 * 2, 0.0), "add up to"),
        ("target_log_tail", put(5 * 2, math.nan), "add up to"),
        ("target_log_tail", put(5 * 2 + 1, math.nan), "log tail"),
        ("target_log_tail", put(5 * 2 + 1, math.inf), "log tail"),
        ("label_logprobs", put(5, 0.01), "label's log probability"),
        ("label_logprobs", put(5, math.nan), "label's log probability"),
    ],
)
def test_a_broken_value_names_row_and_token(name: str, corrupt: Corrupt, complaint: str) -> None:
    with pytest.raises(SoftTargetError, match=rf"row 42, token 1 of .*{complaint}"):
        read(corrupted(name, corrupt))


def test_a_broken_first_token_is_not_taken_for_the_row_before() -> None:
    with pytest.raises(SoftTargetError, match="row 42, token 0"):
        read(corrupted("label_logprobs", put(4, math.nan)))


def test_rows_without_a_number_are_counted() -> None:
    table = corrupted("label_logprobs", put(5, math.nan)).drop_columns(["row"])
    with pytest.raises(SoftTargetError, match="row 2 of this table, token 1"):
        read(table)


@pytest.mark.parametrize("name", SOFT_TARGETS.names)
def test_a_truncated_row_is_named(name: str) -> None:
    table = some_table()
    lists = table.column(name).to_pylist()
    lists[2] = lists[2][:-1]
    column = pa.array(lists, type=SOFT_TARGETS.field(name).type)
    table = table.set_column(table.column_names.index(name), name, column)
    with pytest.raises(SoftTargetError, match=rf"row 42: {name} holds|row 42: target_ids holds"):
        read(table)


def test_targets_must_agree_with_the_mask() -> None:
    mask = pa.array([[1, 1, 1, 1, 1], [0, 0], [1, 1]], type=pa.list_(pa.uint8()))
    table = some_table()
    table = table.set_column(table.column_names.index("loss_mask"), "loss_mask", mask)
    with pytest.raises(SoftTargetError, match=r"row 40: label_logprobs holds 4 .* expected 5"):
        read(table)


def test_another_top_k_or_number_of_temperatures_is_refused() -> None:
    with pytest.raises(SoftTargetError, match="target_ids holds 12 values, expected 16"):
        columns_to_targets(some_table(), K + 1, 2)
    with pytest.raises(SoftTargetError, match="target_log_tail holds 8 values, expected 4"):
        columns_to_targets(some_table(), K, 1)


def test_missing_columns_other_types_and_nulls_are_refused() -> None:
    table = some_table()
    with pytest.raises(SoftTargetError, match="need a column target_ids"):
        read(table.drop_columns(["target_ids"]))
    wide = table.column("target_ids").cast(pa.list_(pa.int64()))
    with pytest.raises(SoftTargetError, match="need a column target_ids of type"):
        read(table.set_column(0, "target_ids", wide))
    lists = table.column("target_ids").to_pylist()
    for broken in ([*lists[:2], None], [*lists[:2], [None, *lists[2][1:]]]):
        column = pa.array(broken, type=pa.list_(pa.int32()))
        with pytest.raises(SoftTargetError, match="target_ids holds nulls"):
            read(table.set_column(0, "target_ids", column))
