"""What is damaged, foreign, full or forbidden is refused, and the message says what to do."""

import base64
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_cases import (
    documents,
    entry_paths,
    filled,
    open_store,
    packed,
    rows_of,
    section_of,
    shard_paths,
    teach,
)
from test_pieces import A, B

from raykd.errors import SoftTargetError, StoreError
from raykd.store import local_files
from raykd.store.place import Place
from raykd.store.section import FORMAT, Section
from raykd.store.store import SoftTargetStore
from tests.codec_specs import HIDDEN, TOP_K

ROWS = packed(documents(20))


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """Two shards."""
    filled(tmp_path, TOP_K, ROWS, calls=2)
    return tmp_path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def fail_writing(
    monkeypatch: pytest.MonkeyPatch, code: int, after: int = 0, only: str = ""
) -> Callable[[], None]:
    """Local writes of files whose name has `only` in it fail after some bytes; returns the cure."""
    real = local_files.open_to_write

    class Failing:
        def __init__(self, path: Path) -> None:
            self._stream: Any = real(path)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._stream.close()

        def write(self, data: bytes) -> int:
            self._stream.write(data[:after])
            raise OSError(code, "made to fail")

    def opened(path: Path) -> Any:
        return Failing(path) if only in path.name else real(path)

    monkeypatch.setattr(local_files, "open_to_write", opened)
    return lambda: monkeypatch.setattr(local_files, "open_to_write", real)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6])
def test_a_flipped_byte_is_met_at_the_read(store_dir: Path, part: float) -> None:
    for path in shard_paths(store_dir):
        flip(path, int(path.stat().st_size * part))
    store = open_store(store_dir, TOP_K, write=False)
    with pytest.raises(StoreError, match=r"shards/.*is corrupt.*store verify.*prune --bad"):
        store.read(ROWS)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """Never other values: page checksums, the footer's own form, keys and lengths."""
    rows = rows_of([[A], [B]])
    filled(tmp_path, TOP_K, rows)
    (path,) = shard_paths(tmp_path)
    whole, expected, refused = path.read_bytes(), teach(rows, TOP_K), 0
    for at in range(0, len(whole), 7):
        flip(path, at)
        try:
            assert open_store(tmp_path, TOP_K, write=False).read(rows).equals(expected), at
        except StoreError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 20


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_shard_is_met_at_the_opening(store_dir: Path, size: int) -> None:
    path = shard_paths(store_dir)[0]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StoreError, match=rf"{path.name}: has {size:,} bytes, but .*prune --bad"):
        open_store(store_dir, TOP_K, write=False)


def test_a_missing_shard_is_met_at_the_opening(store_dir: Path) -> None:
    path = shard_paths(store_dir)[1]
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path.name}: is missing, but"):
        open_store(store_dir, TOP_K, write=False)


def test_a_shard_that_goes_while_the_store_is_open_is_named(store_dir: Path) -> None:
    store = open_store(store_dir, TOP_K, write=False)
    for path in shard_paths(store_dir):
        path.unlink()
    with pytest.raises(StoreError, match=r"shards/.*is published but not there"):
        store.read(ROWS)


def test_without_its_entry_a_shard_does_not_exist(store_dir: Path) -> None:
    before = open_store(store_dir, TOP_K, write=False)
    entry_paths(store_dir)[0].unlink()
    store = open_store(store_dir, TOP_K, write=False)
    assert 0 < store.num_pieces < before.num_pieces
    held = store.holds(ROWS)
    assert not held.all()
    with pytest.raises(StoreError, match=rf"{(~held).sum()} of {ROWS.num_rows} rows are not"):
        store.read(ROWS)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pieces": 3, "keys": "AAAA"}'])
def test_an_entry_that_is_none_is_refused(store_dir: Path, content: bytes) -> None:
    entry_paths(store_dir)[0].write_bytes(content)
    with pytest.raises(StoreError, match=r"published/.*\.json: is no entry.*prune --bad"):
        open_store(store_dir, TOP_K, write=False)


def test_an_entry_of_another_shard_is_met_at_the_read(store_dir: Path) -> None:
    """Keys that lead to other pieces' values."""
    first, second = entry_paths(store_dir)
    facts = [json.loads(path.read_text()) for path in (first, second)]
    facts[0]["keys"], facts[1]["keys"] = facts[1]["keys"], facts[0]["keys"]
    facts[0]["pieces"], facts[1]["pieces"] = facts[1]["pieces"], facts[0]["pieces"]
    first.write_text(json.dumps(facts[0]))
    second.write_text(json.dumps(facts[1]))
    with pytest.raises(StoreError, match="is corrupt"):
        open_store(store_dir, TOP_K, write=False).read(ROWS)


def test_keys_in_another_order_are_met_at_the_read(tmp_path: Path) -> None:
    """Pieces of equally many tokens: only their keys tell them apart."""
    rows = rows_of([[A], [([1, 2, 3], [1, 0, 0])]])
    filled(tmp_path, TOP_K, rows)
    (path,) = entry_paths(tmp_path)
    facts = json.loads(path.read_text())
    keys = base64.b64decode(facts["keys"])
    facts["keys"] = base64.b64encode(keys[16:] + keys[:16]).decode()
    path.write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="under another piece's key or length"):
        open_store(tmp_path, TOP_K, write=False).read(rows)


SECTION = section_of(TOP_K)


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (replace(SECTION, teacher="another"), "teacher"),
        (replace(SECTION, tokenizer="another"), "tokenizer"),
        (replace(SECTION, spec=replace(TOP_K, fingerprint="another")), "stamp"),
        (replace(SECTION, spec=replace(TOP_K, top_k=2)), "codec, stamp, columns"),
        (Section("x", "y", HIDDEN), "teacher, tokenizer, codec, stamp, columns"),
    ],
)
def test_a_foreign_section_says_what_differs(
    store_dir: Path, other: Section, differing: str
) -> None:
    (store_dir / SECTION.name).rename(store_dir / other.name)
    with pytest.raises(StoreError, match=rf"soft targets of another {differing}, under") as error:
        SoftTargetStore.open(str(store_dir), other, write=False)
    assert "found" in str(error.value)
    assert "expected" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "is no description of a section"),
        (b"[1]", "is no description of a section"),
        (b'{"format": "1"}', "is no description of a section"),
        (json.dumps({"format": FORMAT + 1}).encode(), rf"is of format {FORMAT + 1}.*update raykd"),
    ],
)
def test_a_section_file_that_cannot_be_read(store_dir: Path, content: bytes, message: str) -> None:
    (store_dir / SECTION.name / "section.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"section\.json: {message}"):
        open_store(store_dir, TOP_K)


def test_shards_without_a_section_file_are_refused(store_dir: Path) -> None:
    (store_dir / SECTION.name / "section.json").unlink()
    for write in (True, False):
        with pytest.raises(StoreError, match=r"section\.json: is missing, but shards are"):
            open_store(store_dir, TOP_K, write=write)


def test_a_location_that_may_not_be_written(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_writing(monkeypatch, errno.EROFS)
    with pytest.raises(StoreError, match=r"cannot be written.*choose a store that you may write"):
        open_store(store_dir, TOP_K)
    assert open_store(store_dir, TOP_K, write=False).holds(ROWS).all()


def test_a_location_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be"):
        open_store(tmp_path / "file", TOP_K)


def test_a_uri_that_nobody_knows() -> None:
    with pytest.raises(StoreError, match="no filesystem for it"):
        open_store("nosuch://bucket/store", TOP_K)


@pytest.mark.parametrize("only", [".parquet", ".json"])
def test_a_full_disk_publishes_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    store = open_store(tmp_path, TOP_K)
    store.add(ROWS, teach(ROWS, TOP_K))
    cure = fail_writing(monkeypatch, errno.ENOSPC, after=100, only=only)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"no space left.*store prune"):
            store.flush()
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["section.json"]
    assert not store.holds(ROWS).any()
    assert open_store(tmp_path, TOP_K, write=False).num_pieces == 0
    late = rows_of([[A]])
    with pytest.raises(StoreError, match="no space left"):
        store.add(late, teach(late, TOP_K))
    cure()
    store.close()
    assert open_store(tmp_path, TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))
    assert open_store(tmp_path, TOP_K, write=False).holds(late).all()


def test_a_kill_between_shard_and_entry_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    real = Place.write

    def write(place: Place, name: str, data: bytes) -> None:
        if name.endswith(".json"):
            raise KilledError
        real(place, name, data)

    store = open_store(tmp_path, TOP_K)
    store.add(ROWS, teach(ROWS, TOP_K))
    monkeypatch.setattr(Place, "write", write)
    with pytest.raises(KilledError):
        store.flush()
    monkeypatch.undo()
    assert len(shard_paths(tmp_path)) == 1
    after = open_store(tmp_path, TOP_K)
    assert after.num_pieces == 0
    assert not after.holds(ROWS).any()
    after.add(ROWS, teach(ROWS, TOP_K))
    after.close()
    assert open_store(tmp_path, TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))


def test_what_is_added_must_fit(tmp_path: Path) -> None:
    store, rows = open_store(tmp_path, TOP_K), rows_of([[A]])
    with pytest.raises(StoreError, match="not the soft targets of this row"):
        store.add(rows, teach(rows_of([[B]]), TOP_K))
    with pytest.raises(SoftTargetError, match="stamp"):
        store.add(rows, teach(rows, replace(TOP_K, fingerprint="another")))
    store.close()
    assert not shard_paths(tmp_path)


def test_a_store_for_reading_takes_nothing(store_dir: Path) -> None:
    store = open_store(store_dir, TOP_K, write=False)
    with pytest.raises(StoreError, match="open for reading only"):
        store.add(ROWS, teach(ROWS, TOP_K))
    store.flush()
    store.close()
