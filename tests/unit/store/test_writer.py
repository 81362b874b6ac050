"""When shards are written: by size, by age, at the end; and what they are called."""

import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_cases import entry_paths, open_store, rows_of, section_of, shard_paths, teach
from test_pieces import A, B
from test_store_faults import fail_writing

from raykd.errors import StoreError
from raykd.soft_targets.parquet import parquet_options
from raykd.store.entry import new_name, new_writer
from raykd.store.shard import open_shard
from raykd.store.store import SoftTargetStore
from tests.codec_specs import TOP_K


def store_with(location: Path, shard_bytes: int = 1 << 40, shard_seconds: float = 3600):
    return SoftTargetStore.open(
        str(location),
        section_of(TOP_K),
        write=True,
        shard_bytes=shard_bytes,
        shard_seconds=shard_seconds,
    )


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shard_is_written_when_it_is_large_enough(tmp_path: Path) -> None:
    one = [([at, at + 1], [1, 0]) for at in range(10)]
    store = store_with(tmp_path, shard_bytes=1)
    for piece in one[:3]:
        store.add(rows_of([[piece]]), teach(rows_of([[piece]]), TOP_K))
    assert len(shard_paths(tmp_path)) == 3
    assert store.holds(rows_of([one[:3]])).all()
    store.close()


def test_rows_of_one_call_lie_in_one_shard_however_many(tmp_path: Path) -> None:
    store, rows = store_with(tmp_path, shard_bytes=1), rows_of([[A], [B], [A, B]])
    store.add(rows, teach(rows, TOP_K))
    assert len(shard_paths(tmp_path)) == 1
    store.close()


def test_what_waits_is_published_in_time_though_nothing_comes(tmp_path: Path) -> None:
    store, rows = store_with(tmp_path, shard_seconds=0.2), rows_of([[A]])
    for some in (rows, rows_of([[B]])):
        store.add(some, teach(some, TOP_K))
        wait_for(lambda wanted=some: bool(store.holds(wanted).all()))
    assert len(entry_paths(tmp_path)) == 2
    store.close()


def test_a_failure_in_the_background_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = store_with(tmp_path, shard_seconds=0.05), rows_of([[A]])
    cure = fail_writing(monkeypatch, errno.ENOSPC)
    store.add(rows, teach(rows, TOP_K))
    wait_for(lambda: store._writer._failed)
    with pytest.raises(StoreError, match="no space left"):
        store.add(rows_of([[B]]), teach(rows_of([[B]]), TOP_K))
    cure()
    wait_for(lambda: bool(store.holds(rows_of([[A, B]])).all()))
    store.close()


def test_closing_with_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, rows = open_store(tmp_path, TOP_K), rows_of([[A]])
    store.add(rows, teach(rows, TOP_K))
    cure = fail_writing(monkeypatch, errno.EDQUOT)
    with pytest.raises(StoreError, match="no space left"):
        store.close()
    cure()
    store.close()
    assert len(entry_paths(tmp_path)) == 1


def test_what_is_published_waits_no_longer(tmp_path: Path) -> None:
    store, rows = open_store(tmp_path, TOP_K), rows_of([[A], [B]])
    store.add(rows, teach(rows, TOP_K))
    assert len(store._writer._pending) == 2
    store.flush()
    assert not store._writer._pending
    store.flush()
    store.close()
    assert len(shard_paths(tmp_path)) == 1


def test_names_are_of_writer_and_number() -> None:
    one, other = new_writer(), new_writer()
    assert one != other
    names = {new_name(writer, number) for writer in (one, other) for number in range(3)}
    assert len(names) == 6


def test_a_shard_has_the_codecs_encodings(tmp_path: Path) -> None:
    store, rows = open_store(tmp_path, TOP_K), rows_of([[A, B]])
    store.add(rows, teach(rows, TOP_K))
    store.close()
    file = open_shard(shard_paths(tmp_path)[0])
    group = file.metadata.row_group(0)
    options = parquet_options(TOP_K)["column_encoding"]
    found = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    assert found.keys() == {"key", *options}
    for name, encoding in options.items():
        assert encoding in found[name].encodings
        assert found[name].compression == "ZSTD"
