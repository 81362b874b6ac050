from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import datasets
import numpy as np
import pytest

from raykd import schema
from raykd.data import rows as rows_module
from raykd.data.pack import PackedRow
from raykd.data.rows import PreparedRows, RowWriter, open_rows
from raykd.errors import StorageError

PAD = 7


def row(identity: int, length: int) -> PackedRow:
    return PackedRow(
        np.full(length, identity, dtype=np.int32),
        np.arange(length, dtype=np.int32),
        np.ones(length, dtype=np.uint8),
        length,
    )


def write(directory: Path, lengths: list[int], shard_bytes: int = 2**28) -> PreparedRows:
    writer = RowWriter(directory, PAD, shard_bytes)
    for identity, length in enumerate(lengths):
        writer.add(row(identity, length))
    writer.close()
    return open_rows(directory)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BATCH_TOKENS", 64)


@pytest.mark.usefixtures("small_batches")
def test_rows_come_back_in_any_order_from_many_files(tmp_path: Path) -> None:
    lengths = [8 + 8 * (i % 3) for i in range(200)]
    rows = write(tmp_path / "train", lengths, shard_bytes=2_000)
    assert len(list((tmp_path / "train").glob("*.arrow"))) > 5
    assert rows.num_rows == 200
    assert rows.lengths.tolist() == lengths
    asked = np.array([199, 0, 7, 7, 100, 31], dtype=np.int64)
    table = rows.take(asked)
    assert schema.check_columns(table, schema.PREPARED, "test") is table
    for i, identity in enumerate(asked.tolist()):
        assert table["input_ids"][i].as_py() == [identity] * lengths[identity]
        assert table["position_ids"][i].as_py() == list(range(lengths[identity]))
        assert table["loss_mask"][i].as_py() == [1] * lengths[identity]


def test_fillers_are_padding_of_the_shortest_length(tmp_path: Path) -> None:
    table = write(tmp_path / "train", [24, 16, 32]).take(np.array([-1, 2, -1], dtype=np.int64))
    assert table["input_ids"].to_pylist() == [[PAD] * 16, [2] * 32, [PAD] * 16]
    assert table["position_ids"][0].as_py() == [0] * 16
    assert table["loss_mask"][2].as_py() == [0] * 16


def test_no_rows_asked_are_no_rows(tmp_path: Path) -> None:
    table = write(tmp_path / "train", [8]).take(np.array([], dtype=np.int64))
    assert (table.num_rows, table.schema) == (0, schema.PREPARED)


def test_an_empty_set_opens(tmp_path: Path) -> None:
    rows = write(tmp_path / "none", [])
    assert (rows.num_rows, len(rows.lengths)) == (0, 0)


@pytest.mark.parametrize("wrong", [-2, 3])
def test_rows_that_are_not_there(tmp_path: Path, wrong: int) -> None:
    rows = write(tmp_path / "train", [8, 8, 8])
    with pytest.raises(IndexError, match=r"\[-1, 3\)"):
        rows.take(np.array([0, wrong], dtype=np.int64))


@pytest.mark.usefixtures("small_batches")
def test_datasets_reads_the_directory_too(tmp_path: Path) -> None:
    write(tmp_path / "train", [16] * 30, shard_bytes=2_000)
    loaded = datasets.load_from_disk(str(tmp_path / "train"))
    assert len(loaded) == 30
    assert loaded[29]["input_ids"] == [29] * 16
    assert loaded.features["loss_mask"] == datasets.List(datasets.Value("uint8"))


def test_it_travels_as_a_name(tmp_path: Path) -> None:
    rows = write(tmp_path / "train", [1024] * 500)
    travelled = pickle.dumps(rows)
    assert len(travelled) < 1_000
    assert pickle.loads(travelled).take(np.array([3]))["input_ids"][0].as_py() == [3] * 1024


def test_random_reads_are_fast(tmp_path: Path) -> None:
    rows = write(tmp_path / "train", [1024] * 5_000)
    asked = np.random.default_rng(0).integers(0, 5_000, 1_000)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        rows.take(asked)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.05


def test_damage_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no prepared rows"):
        open_rows(tmp_path / "nowhere")
    directory = tmp_path / "train"
    write(directory, [8] * 10)
    facts = json.loads((directory / "rows.json").read_text())
    for change in ({"num_rows": 11}, {"shards": []}, {"shards": ["gone.arrow"]}):
        (directory / "rows.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(StorageError, match=r"damaged"):
            open_rows(directory)
    (directory / "rows.json").write_text(json.dumps(facts))
    data = directory / facts["shards"][0]
    data.write_bytes(data.read_bytes()[:500])
    with pytest.raises(StorageError, match=r"damaged"):
        open_rows(directory)
