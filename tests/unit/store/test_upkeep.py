"""Listing, verifying and pruning a store."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from store_cases import (
    documents,
    entry_paths,
    filled,
    open_store,
    packed,
    section_of,
    shard_paths,
    teach,
)
from test_store_faults import flip

from raykd.errors import StoreError
from raykd.soft_targets.codec import CodecSpec
from raykd.store import shard
from raykd.store.entry import checksum, new_name, new_writer
from raykd.store.pieces import pieces_of
from raykd.store.prune import prune
from raykd.store.sections import sections
from raykd.store.verify import verify
from tests.codec_specs import SAMPLED, SPECS, TOP_K

ROWS = packed(documents(20))
HOUR_S, DAY_S = 3600, 86400


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """Two sections, of two shards and of one."""
    filled(tmp_path, TOP_K, ROWS, calls=2)
    filled(tmp_path, SAMPLED, ROWS)
    return tmp_path


def section_dir(store_dir: Path, spec: CodecSpec) -> Path:
    return store_dir / section_of(spec).name


def make_old(path: Path, seconds: float) -> None:
    written_s = time.time() - seconds
    os.utime(path, (written_s, written_s))


def rewrite_entry(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_sections_are_listed_with_what_they_hold(store_dir: Path) -> None:
    (store_dir / "something else").mkdir()
    sampled, top_k = sections(str(store_dir))
    assert [sampled.name, top_k.name] == [section_of(s).name for s in (SAMPLED, TOP_K)]
    assert (sampled.shards, top_k.shards) == (1, 2)
    files = shard_paths(section_dir(store_dir, TOP_K).parent)
    assert sampled.num_bytes + top_k.num_bytes == sum(path.stat().st_size for path in files)
    distinct = {tuple(key): n for key, n in zip(
        pieces_of(ROWS).keys.tolist(), pieces_of(ROWS).tokens.tolist(), strict=True
    )}  # fmt: skip
    for each in (sampled, top_k):
        assert (each.teacher, each.tokenizer, each.problem) == ("a teacher", "a tokenizer", None)
        assert each.pieces == len(distinct)
        assert each.tokens == sum(distinct.values())
        assert each.written_s is not None
        assert abs(time.time() - each.written_s) < 60
    assert top_k.codec == (
        "top_k, vocab_size 11, top_k 3, values fp32, tail true, temperatures [1.0, 2.0]"
    )


def test_no_store_holds_nothing(tmp_path: Path) -> None:
    assert sections(str(tmp_path / "none")) == []
    assert verify(str(tmp_path / "none")).faults == ()
    assert prune(str(tmp_path / "none")) == []


def test_a_section_that_cannot_be_read_is_listed_with_its_problem(store_dir: Path) -> None:
    (section_dir(store_dir, SAMPLED) / "section.json").write_text("{")
    entry_paths(store_dir)[-1].write_text("")
    problems = [each.problem or "" for each in sections(str(store_dir))]
    assert "is no description of a section" in problems[0]
    assert "is no entry of a shard" in problems[1]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_what_is_sound_has_no_fault(spec: CodecSpec, tmp_path: Path) -> None:
    rows = packed(documents(5))
    filled(tmp_path, spec, rows)
    found = verify(str(tmp_path))
    assert found.faults == ()
    assert (found.sections, found.shards) == (1, 1)
    assert found.num_bytes == shard_paths(tmp_path)[0].stat().st_size


def test_every_flipped_byte_is_found(store_dir: Path) -> None:
    path = shard_paths(section_dir(store_dir, TOP_K).parent)[-1]
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 40):
        flip(path, at)
        (fault,) = verify(str(store_dir)).faults
        assert fault.path == str(path)
        assert fault.shard == path.stem
        assert "checksum differs" in fault.what
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.unlink(), "published but missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "published are"),
    ],
)
def test_a_shard_that_is_gone_or_cut_is_found(store_dir: Path, change, what: str) -> None:
    path = shard_paths(store_dir)[0]
    change(path)
    (fault,) = verify(str(store_dir)).faults
    assert what in fault.what
    assert verify(str(store_dir), section_of(TOP_K).name).shards == 2


def republish(store_dir: Path, data: bytes) -> None:
    """Put other bytes in the place of a shard, with an entry that says they are right."""
    shard, entry = shard_paths(store_dir)[0], entry_paths(store_dir)[0]
    shard.write_bytes(data)
    rewrite_entry(entry, bytes=len(data), checksum=checksum(data))


def test_right_bytes_with_wrong_content_are_found(tmp_path: Path) -> None:
    filled(tmp_path / "a", TOP_K, ROWS)
    filled(tmp_path / "b", TOP_K, packed(documents(20, seed=9)))
    filled(tmp_path / "c", SAMPLED, ROWS)
    own, foreign, other = ((shard_paths(tmp_path / name)[0]).read_bytes() for name in "abc")
    store = tmp_path / "a"
    for data, what in [
        (b"no parquet", "cannot be decoded"),
        (other, "its columns are others"),
        (foreign, "pieces, published are"),
    ]:
        republish(store, data)
        (fault,) = verify(str(store)).faults
        assert what in fault.what
    republish(store, own)
    assert verify(str(store)).faults == ()
    facts = json.loads(entry_paths(store)[0].read_text())
    rewrite_entry(entry_paths(store)[0], tokens=facts["tokens"] + 1)
    assert "learned tokens, published are" in verify(str(store)).faults[0].what
    keys = facts["keys"]
    rewrite_entry(entry_paths(store)[0], tokens=facts["tokens"], keys="AAAA" + keys[4:])
    assert "its keys are not the published ones" in verify(str(store)).faults[0].what


def test_lists_that_are_cut_are_found(tmp_path: Path) -> None:
    """A section.json that says two ids a token where the shard has three."""
    filled(tmp_path, TOP_K, ROWS)
    path = section_dir(tmp_path, TOP_K) / "section.json"
    facts = json.loads(path.read_text())
    facts["columns"]["target_ids"]["width"] = 2
    path.write_text(json.dumps(facts))
    (fault,) = verify(str(tmp_path)).faults
    assert "lists of a piece" in fault.what


def test_decode_looks_into_every_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "GROUP_TOKENS", 40)
    filled(tmp_path, TOP_K, ROWS)
    assert verify(str(tmp_path), decode=True).faults == ()
    (path,) = entry_paths(tmp_path)
    rewrite_entry(path, tokens=json.loads(path.read_text())["tokens"] + 1)
    assert verify(str(tmp_path)).faults == ()
    (fault,) = verify(str(tmp_path), decode=True).faults
    assert "learned tokens, published are" in fault.what


def test_a_bad_section_is_a_fault_without_a_shard(store_dir: Path) -> None:
    path = section_dir(store_dir, SAMPLED) / "section.json"
    path.unlink()
    (fault,) = verify(str(store_dir)).faults
    assert fault.shard is None
    assert fault.path == str(path)
    assert prune(str(store_dir), bad=True) == []


def test_bad_shards_are_pruned_and_scored_again(store_dir: Path) -> None:
    path = shard_paths(section_dir(store_dir, TOP_K).parent)[-1]
    flip(path, 500)
    assert prune(str(store_dir)) == []
    planned = prune(str(store_dir), bad=True, dry_run=True)
    assert path.exists()
    assert prune(str(store_dir), bad=True) == planned
    (removal,) = planned
    assert (removal.kind, removal.path) == ("shard", str(path))
    assert removal.num_bytes > 0
    assert not path.exists()
    assert verify(str(store_dir)).faults == ()
    store = open_store(store_dir, TOP_K)
    assert not store.holds(ROWS).all()
    store.add(ROWS, teach(ROWS, TOP_K))
    store.close()
    assert open_store(store_dir, TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))


def test_an_entry_that_cannot_be_read_is_pruned_with_its_shard(store_dir: Path) -> None:
    entry = entry_paths(store_dir)[0]
    entry.write_text("")
    (removal,) = prune(str(store_dir), bad=True)
    assert Path(removal.path).stem == entry.stem
    assert not entry.exists()
    assert not Path(removal.path).exists()


def test_leftovers_go_after_an_hour(store_dir: Path) -> None:
    section, published = section_dir(store_dir, TOP_K), shard_paths(store_dir)
    name = new_name(new_writer(), 0)
    leftovers = [
        section / "shards" / f"{name}.parquet",
        section / "shards" / f".{name}.parquet.0123abcd.writing",
        section / "shards" / ".probe-0123abcd",
        section / "published" / f".{name}.json.0123abcd.writing",
        section / ".section.json.0123abcd.writing",
    ]
    others = [section / "shards" / "notes.parquet", section / "published" / "notes.txt"]
    for path in leftovers + others:
        path.write_bytes(b"12345")
        make_old(path, 0.9 * HOUR_S)
    for path in published:
        make_old(path, 2 * HOUR_S)
    others += published + entry_paths(store_dir)
    assert prune(str(store_dir)) == []
    for path in leftovers:
        make_old(path, 1.1 * HOUR_S)
    removed = prune(str(store_dir))
    assert sorted(each.path for each in removed) == sorted(map(str, leftovers))
    assert {each.kind for each in removed} == {"leftover"}
    assert sum(each.num_bytes for each in removed) == 25
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)
    assert verify(str(store_dir)).faults == ()


def test_a_filesystem_without_times_tells_age_by_the_name() -> None:
    location = f"memory://{new_writer()}/store"
    filled(location, TOP_K, ROWS)
    assert prune(location) == []
    from raykd.store.place import Place

    place = Place.at(location).within(section_of(TOP_K).name)
    old = f"shards/{int(time.time()) - 2 * HOUR_S:010d}-0123abcd-000000.parquet"
    new = f"shards/{int(time.time()):010d}-0123abcd-000000.parquet"
    for name in (old, new):
        place.write(name, b"1")
    assert [each.path for each in prune(location)] == [place.path(old)]


def test_a_named_section_goes_whole(store_dir: Path) -> None:
    name = section_of(SAMPLED).name
    planned = prune(str(store_dir), section=name, dry_run=True)
    assert (store_dir / name).exists()
    assert prune(str(store_dir), section=name) == planned
    assert [each.kind for each in planned] == ["section"]
    assert not (store_dir / name).exists()
    assert [each.name for each in sections(str(store_dir))] == [section_of(TOP_K).name]


@pytest.mark.parametrize("call", [prune, verify])
def test_a_section_that_is_not_there_is_named_with_those_that_are(store_dir: Path, call) -> None:
    (store_dir / "private").mkdir()
    for name in ("nosuch", "private", "..", ""):
        with pytest.raises(StoreError, match=rf"has no section {name}; there are: .*top_k-"):
            call(str(store_dir), section=name)


def test_old_sections_go_by_their_newest_shard(store_dir: Path) -> None:
    old, mixed = section_dir(store_dir, SAMPLED), section_dir(store_dir, TOP_K)
    for path in [*old.glob("published/*.json"), *sorted(mixed.glob("published/*.json"))[:1]]:
        rewrite_entry(path, written_s=time.time() - 10 * DAY_S)
    assert prune(str(store_dir), older_than_s=11 * DAY_S) == []
    assert prune(str(store_dir), older_than_s=9 * DAY_S, section=mixed.name) == []
    (removal,) = prune(str(store_dir), older_than_s=9 * DAY_S)
    assert (removal.section, removal.kind) == (old.name, "section")
    assert "10.0 days ago" in removal.why
    assert not old.exists()
    assert mixed.exists()


def test_facts_that_decide_nothing_leave_a_section_its_name() -> None:
    assert section_of(replace(SAMPLED, seed=5)).name == section_of(SAMPLED).name
    assert section_of(replace(TOP_K, draws=7, hidden_size=3)).name == section_of(TOP_K).name
    base = section_of(TOP_K)
    others = [
        base,
        replace(base, teacher="other"),
        replace(base, tokenizer="other"),
        section_of(replace(TOP_K, top_k=2)),
        section_of(replace(TOP_K, temperatures=(1.0, 4.0))),
        section_of(replace(TOP_K, fingerprint="other")),
    ]
    assert len({each.name for each in others}) == len(others)
