"""What was stored of one packing is read in another, piece by piece what the teacher said."""

import multiprocessing
import tempfile
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import (
    documents,
    entry_paths,
    filled,
    open_store,
    packed,
    rows_of,
    section_of,
    shard_paths,
    shuffled,
    teach,
)
from test_pieces import SILENT, A, B, pieces_strategy

from raykd.soft_targets.codec import CodecSpec, decode, target_schema
from raykd.store import shard as shard_file
from raykd.store.pieces import pieces_of
from raykd.store.sections import sections
from raykd.store.store import SoftTargetStore
from tests.codec_specs import SAMPLED, SPECS, TOP_K


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of a few pieces."""
    monkeypatch.setattr(shard_file, "GROUP_TOKENS", 40)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_another_packing_reads_what_was_said(spec: CodecSpec, tmp_path: Path) -> None:
    corpus = documents(12 if spec.vocab_size > 1000 else 40)
    filled(tmp_path, spec, packed(corpus), calls=3)
    store = open_store(tmp_path, spec, write=False)
    for rows in (
        packed(shuffled(corpus, 1)),
        packed(shuffled(corpus, 2), "pad"),
        packed(corpus[::-1]),
    ):
        assert store.holds(rows).all()
        read = store.read(rows)
        assert read.schema.equals(target_schema(spec))
        assert read.equals(teach(rows, spec))
        decode(read.append_column("loss_mask", rows.column("loss_mask")), spec)


def test_a_student_with_another_seed_reads_the_draws(tmp_path: Path) -> None:
    rows = packed(documents(10))
    filled(tmp_path, SAMPLED, rows)
    other = replace(SAMPLED, seed=7)
    assert open_store(tmp_path, other, write=False).read(rows).equals(teach(rows, SAMPLED))
    assert not teach(rows, other).equals(teach(rows, SAMPLED))


@settings(max_examples=40, deadline=None)
@given(
    layout=pieces_strategy(),
    other=st.randoms(use_true_random=False),
    padding=st.integers(0, 2),
    spec=st.sampled_from([TOP_K, SAMPLED]),
    calls=st.integers(1, 3),
)
def test_any_layout_of_the_same_pieces_is_read(layout, other, padding, spec, calls) -> None:
    pieces = [piece for row in layout for piece in row]
    other.shuffle(pieces)
    cut = other.randint(0, len(pieces))
    again = rows_of([pieces[:cut], pieces[cut:], []], padding)
    with tempfile.TemporaryDirectory() as location:
        filled(location, spec, rows_of(layout), calls)
        store = open_store(location, spec, write=False)
        assert store.holds(again).all()
        assert store.read(again).equals(teach(again, spec))


def test_rows_with_a_piece_that_is_not_there_are_not_held(tmp_path: Path) -> None:
    filled(tmp_path, TOP_K, rows_of([[A]]))
    store = open_store(tmp_path, TOP_K, write=False)
    assert store.holds(rows_of([[A], [A, B], [B], [SILENT], [], [SILENT, A]])).tolist() == [
        True,
        False,
        False,
        True,
        True,
        True,
    ]


def test_only_pieces_that_are_not_there_are_written(tmp_path: Path) -> None:
    store = open_store(tmp_path, TOP_K)
    for rows in (rows_of([[A, A], [B]]), rows_of([[B, A]]), rows_of([[B], [SILENT]])):
        store.add(rows, teach(rows, TOP_K))
        store.flush()
    assert len(shard_paths(tmp_path)) == 1
    assert store.num_pieces == 2
    assert store.holds(rows_of([[A, B]])).all()
    store.close()


def test_pieces_that_wait_are_not_taken_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path, TOP_K)
    for rows in (rows_of([[A]]), rows_of([[A]]), rows_of([[B, A]])):
        store.add(rows, teach(rows, TOP_K))
    assert not store.holds(rows_of([[A]])).any()
    store.close()
    (section,) = sections(str(tmp_path))
    assert (section.shards, section.pieces, section.tokens) == (1, 2, 1 + 3)


def test_row_groups_are_small_and_a_call_lies_in_one_shard(tmp_path: Path, small_groups) -> None:
    rows = packed(documents(40))
    filled(tmp_path, TOP_K, rows)
    (path,) = shard_paths(tmp_path)
    metadata = shard_file.open_shard(path).metadata
    tokens = pieces_of(rows).tokens
    assert metadata.num_rows == len(tokens)
    assert metadata.num_row_groups >= tokens.sum() / (40 + tokens.max())


def test_what_others_publish_is_seen_by_refresh(tmp_path: Path) -> None:
    reader, rows = open_store(tmp_path, TOP_K, write=False), packed(documents(10))
    filled(tmp_path, TOP_K, rows, calls=2)
    assert not reader.holds(rows).any()
    assert reader.refresh() == 2
    assert reader.refresh() == 0
    assert reader.read(rows).equals(teach(rows, TOP_K))


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    corpus = documents(60)
    parts = [packed(shuffled(corpus, seed)) for seed in range(4)]

    def write(rows: pa.Table) -> None:
        store = SoftTargetStore.open(
            str(tmp_path), section_of(TOP_K), write=True, shard_bytes=2000, shard_seconds=3600
        )
        for at in range(rows.num_rows):
            store.add(rows.slice(at, 1), teach(rows.slice(at, 1), TOP_K))
        store.close()

    threads = [threading.Thread(target=write, args=(rows,)) for rows in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(tmp_path, TOP_K, write=False)
    assert len(shard_paths(tmp_path)) == len(entry_paths(tmp_path)) > 4
    for rows in parts:
        assert store.read(rows).equals(teach(rows, TOP_K))


def write_in_a_process(location: str, seed: int) -> None:
    rows = packed(documents(20, seed))
    filled(location, TOP_K, rows, calls=5)


def test_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=write_in_a_process, args=(str(tmp_path), seed)) for seed in (1, 2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    store = open_store(tmp_path, TOP_K, write=False)
    for seed in (1, 2):
        rows = packed(documents(20, seed))
        assert store.read(rows).equals(teach(rows, TOP_K))


def test_threads_read_one_store(tmp_path: Path, small_groups) -> None:
    corpus = documents(60)
    filled(tmp_path, SAMPLED, packed(corpus), calls=3)
    store = open_store(tmp_path, SAMPLED, write=False)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = packed(shuffled(corpus, seed))
        expected = teach(rows, SAMPLED)
        for _ in range(3):
            if not store.read(rows).equals(expected):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_uri_is_a_location(kind: str, tmp_path: Path) -> None:
    location = f"memory://{uuid.uuid4().hex}/store" if kind == "memory" else tmp_path.as_uri()
    rows = packed(documents(10))
    filled(location, TOP_K, rows, calls=2)
    store = open_store(location, TOP_K, write=False)
    assert store.read(rows).equals(teach(rows, TOP_K))


def test_nothing_is_read_of_no_rows(tmp_path: Path) -> None:
    store = open_store(tmp_path, TOP_K, write=False)
    none = packed([])
    assert store.holds(none).tolist() == []
    assert store.read(none).num_rows == 0
    fillers = rows_of([[SILENT], []], padding=3)
    assert store.read(fillers).equals(teach(fillers, TOP_K))
    assert np.asarray(store.holds(fillers)).all()
