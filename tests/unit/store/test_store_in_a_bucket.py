"""A store on object storage, over S3's own protocol: whole or not at all, by several writers."""

import os
import threading
import time
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pytest
from bucket import BUCKET, Bucket, Way, bucket
from store_cases import documents, filled, open_store, packed, section_of, shuffled, teach

from raykd.errors import StoreError
from raykd.store import place
from raykd.store.entry import published_names
from raykd.store.place import Place
from raykd.store.prune import prune
from raykd.store.sections import sections
from raykd.store.store import SoftTargetStore
from raykd.store.verify import verify
from tests.codec_specs import SAMPLED, TOP_K

CORPUS = documents(20)
ROWS = packed(CORPUS)


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    with bucket() as found:
        yield found


@pytest.fixture
def way(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """What is sent over it fails at the second attempt."""
    monkeypatch.setattr(place, "S3_ATTEMPTS", 2)
    found = Way(s3.address)
    yield found
    found.close()


def new_path() -> str:
    return f"stores/{uuid.uuid4().hex}"


def section_at(location: str) -> Place:
    return Place.at(location).within(section_of(TOP_K).name)


def test_what_was_said_is_read_verified_and_pruned(s3: Bucket) -> None:
    location = s3.uri(new_path())
    for spec in (TOP_K, SAMPLED):
        filled(location, spec, ROWS, calls=2)
        rows = packed(shuffled(CORPUS, 1), "pad")
        store = open_store(location, spec, write=False)
        assert store.holds(rows).all()
        assert store.read(rows).equals(teach(rows, spec))
    assert {each.name: each.shards for each in sections(location)} == {
        section_of(spec).name: 2 for spec in (TOP_K, SAMPLED)
    }
    found = verify(location, decode=True)
    assert (found.sections, found.shards, found.faults) == (2, 4, ())
    assert prune(location) == []
    (removal,) = prune(location, section=section_of(SAMPLED).name)
    assert removal.kind == "section"
    assert [each.name for each in sections(location)] == [section_of(TOP_K).name]


def test_flipped_bytes_are_refused_pruned_and_scored_again(s3: Bucket) -> None:
    location = s3.uri(new_path())
    filled(location, TOP_K, ROWS)
    section = section_at(location)
    (name,) = published_names(section)
    data = bytearray(section.read(f"shards/{name}.parquet") or b"")
    data[len(data) // 3] ^= 0x10
    section.write(f"shards/{name}.parquet", bytes(data))
    with pytest.raises(StoreError, match=r"shards/.*is corrupt.*prune --bad"):
        open_store(location, TOP_K, write=False).read(ROWS)
    (fault,) = verify(location).faults
    assert fault.shard == name
    assert [each.kind for each in prune(location, bad=True)] == ["shard"]
    filled(location, TOP_K, ROWS)
    assert open_store(location, TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))


def test_writers_at_once_lose_nothing(s3: Bucket) -> None:
    location = s3.uri(new_path())
    parts = [packed(shuffled(CORPUS, seed)) for seed in range(3)]
    failed: list[BaseException] = []

    def write(rows: pa.Table) -> None:
        try:
            store = SoftTargetStore.open(
                location, section_of(TOP_K), write=True, shard_bytes=3000, shard_seconds=3600
            )
            for at in range(rows.num_rows):
                store.add(rows.slice(at, 1), teach(rows.slice(at, 1), TOP_K))
            store.close()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=write, args=(rows,)) for rows in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    store = open_store(location, TOP_K, write=False)
    assert len(published_names(section_at(location))) > len(parts)
    for rows in parts:
        assert store.read(rows).equals(teach(rows, TOP_K))
    assert verify(location).faults == ()


@pytest.mark.parametrize("only", [".parquet", ".json"])
def test_a_connection_that_is_cut_publishes_nothing_and_loses_nothing(
    s3: Bucket, way: Way, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    path = new_path()
    store = open_store(s3.uri(path, way.address), TOP_K)
    store.add(ROWS, teach(ROWS, TOP_K))
    real = Place.write

    def cut_write(section: Place, name: str, data: bytes) -> None:
        if name.endswith(only):
            way.cut_after(0)
        real(section, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", cut_write)
        with pytest.raises(StoreError, match=rf"{only}: cannot be written"):
            store.flush()
    assert way.cuts
    way.mend()
    assert published_names(section_at(s3.uri(path))) == []
    assert not store.holds(ROWS).any()
    assert open_store(s3.uri(path), TOP_K, write=False).num_pieces == 0
    store.close()
    assert open_store(s3.uri(path), TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))


def test_an_upload_of_several_parts_that_is_cut_is_not_there(s3: Bucket, way: Way) -> None:
    """Its first parts have arrived: an object is made of them by the last request only."""
    path, data = new_path(), os.urandom(24 << 20)
    there = Place.at(s3.uri(path, way.address))
    way.cut_after(15 << 20)
    with pytest.raises(StoreError, match="cannot be written"):
        there.write("large", data)
    assert way.cuts
    way.mend()
    assert Place.at(s3.uri(path)).files("") == {}
    there.write("large", data)
    assert Place.at(s3.uri(path)).read("large") == data


def test_a_row_group_takes_few_requests(s3: Bucket) -> None:
    """Not one for each of its columns: every request costs a round trip."""
    location = s3.uri(new_path())
    filled(location, TOP_K, ROWS)
    store = open_store(location, TOP_K, write=False)
    before = s3.requests["GET"]
    store.read(ROWS)
    assert s3.requests["GET"] - before <= 2 + 1


def test_a_bucket_that_is_busy_for_a_moment_is_asked_again(s3: Bucket) -> None:
    location = s3.uri(new_path())
    s3.refusals.update(PUT=1, POST=1)
    filled(location, TOP_K, ROWS)
    s3.refusals.update(GET=2)
    assert open_store(location, TOP_K, write=False).read(ROWS).equals(teach(ROWS, TOP_K))
    assert not s3.refusals["PUT"] + s3.refusals["GET"]
    s3.refusals.clear()


def test_an_upload_that_lacks_a_part_is_not_there(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part is refused for good; the others, and the request that ends it, would succeed."""
    monkeypatch.setattr(place, "S3_ATTEMPTS", 1)
    there, data = Place.at(s3.uri(new_path())), os.urandom(24 << 20)
    s3.refusals.update(PUT=1)
    with pytest.raises(StoreError, match="cannot be written"):
        there.write("large", data)
    assert not s3.refusals["PUT"]
    assert there.files("") == {}
    there.write("large", data)
    assert there.read("large") == data


def test_what_is_not_there_is_empty_and_a_bucket_that_is_not_there_is_named(s3: Bucket) -> None:
    assert sections(s3.uri(new_path())) == []
    elsewhere = s3.uri(new_path()).replace(BUCKET, "no-such-bucket")
    with pytest.raises(StoreError, match=r"no-such-bucket/.*cannot be"):
        open_store(elsewhere, TOP_K)


def test_an_endpoint_that_does_not_answer_is_said_in_time(s3: Bucket, way: Way) -> None:
    way.cut_after(0)
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(s3.uri(new_path(), way.address), TOP_K)
    assert time.monotonic() - began < 60
    assert way.cuts


def test_secrets_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(StoreError, match=r"s3://\*\*\*@targets/store: .*environment") as error:
        Place.at("s3://AKIANOBODY:hush@targets/store?region=us-east-1")
    assert "hush" not in str(error.value)
