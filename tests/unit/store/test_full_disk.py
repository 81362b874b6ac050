"""A disk that is really full: a small file system of the test's own.

It is mounted in a name space of a child process, which needs no rights where the kernel lets users
have their own; the child runs one of the stories below. Elsewhere the tests are skipped;
`test_store_faults.py` has the same by made-up errors.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MIB = 1 << 20
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
SCRIPT = 'mount -t tmpfs -o size=1m small "$1" && exec "$2" "$3" "$4" "$1"'


def in_a_small_disk(story: str, directory: Path) -> dict[str, Any]:
    """What a story found, told on a file system of 1 MiB."""
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare` here")
    probe = subprocess.run([*MOUNT, "mount -t tmpfs small /mnt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this kernel lets no user mount a file system of his own")
    command = [*MOUNT, SCRIPT, "sh", str(directory), sys.executable, __file__, story]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_store_stops_cleanly_and_goes_on_once_there_is_space(tmp_path: Path) -> None:
    found = in_a_small_disk("store", tmp_path)
    assert found["published_before"] > 0
    first, second = found["messages"]
    assert "\n" not in first
    assert f"{tmp_path}/" in first
    assert "no space left (No space left on device): " in first
    assert " bytes are needed, free are " in first
    assert "`raykd store prune`) and go on with --resume" in first
    assert second.partition("shards/")[0] == first.partition("shards/")[0]
    free = int(first.partition("free are ")[2].partition(" ")[0].replace(",", ""))
    needed = int(first.partition("left on device): ")[2].partition(" ")[0].replace(",", ""))
    assert 0 <= free < needed
    assert found["faults"] == 0
    assert found["partial_files"] == []
    assert found["equal_after"]


def test_a_checkpoint_that_finds_no_space_is_not_taken(tmp_path: Path) -> None:
    found = in_a_small_disk("checkpoint", tmp_path)
    assert found["failed"] == "OSError: No space left on device"
    assert found["whole"] == ["step-00000001"]
    assert found["latest"] == 1
    assert found["latest_after"] == 3
    assert found["left_over"] == []


def test_what_torch_says_of_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    found = in_a_small_disk("torch", tmp_path)
    assert found["message"].startswith(f"{tmp_path}/step: no space left for a checkpoint; free on ")
    assert found["message"].endswith("and go on with --resume")
    assert "\n" not in found["message"]


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    found = in_a_small_disk("read_only", tmp_path)
    assert "cannot be written: [Errno 30] Read-only file system" in found["message"]
    assert "choose a store that you may write" in found["message"]
    assert found["equal"]


def _store_story(disk: Path) -> dict[str, Any]:
    from store_cases import documents, open_store, packed, teach

    from raykd.errors import StoreError
    from raykd.store.verify import verify
    from tests.codec_specs import TOP_K

    store, messages = open_store(disk / "store", TOP_K), []
    first = packed(documents(10))
    store.add(first, teach(first, TOP_K))
    store.flush()
    published = verify(str(disk / "store")).shards
    ballast = disk / "ballast"
    ballast.write_bytes(b"\1" * (MIB - _used(disk) - 16384))
    rows = packed(documents(400, seed=1))
    store.add(rows, teach(rows, TOP_K))
    for _ in range(2):
        try:
            store.flush()
        except StoreError as error:
            messages.append(str(error))
    faults = verify(str(disk / "store")).faults
    hidden = [path.name for path in (disk / "store").rglob(".*")]
    ballast.unlink()
    store.close()
    again = open_store(disk / "store", TOP_K, write=False)
    both = [again.read(one).equals(teach(one, TOP_K)) for one in (first, rows)]
    return {
        "published_before": published,
        "messages": messages,
        "faults": len(faults),
        "partial_files": hidden,
        "equal_after": all(both),
    }


def _checkpoint_story(disk: Path) -> dict[str, Any]:
    from raykd.student.checkpoint import CheckpointMark, aside, latest, newest_good, publish
    from raykd.student.integrity import seal

    def save(step: int) -> None:
        directory = aside(disk, step)
        directory.mkdir()
        (directory / "weights").write_bytes(bytes([step]) * (400 << 10))
        seal(directory, 0, 1)
        publish(disk, CheckpointMark(step, step * 4, 1, 1), keep=1)

    failed = ""
    save(1)
    (disk / "ballast").write_bytes(b"\1" * (MIB - _used(disk) - (200 << 10)))
    try:
        save(2)
    except OSError as error:
        failed = f"{type(error).__name__}: {error.strerror}"
    found = newest_good(disk, print)
    whole = sorted(path.name for path in disk.iterdir() if path.suffix == "" and path.is_dir())
    (disk / "ballast").unlink()
    shutil.rmtree(aside(disk, 2))
    save(3)
    after = latest(disk)
    return {
        "failed": failed,
        "whole": whole,
        "latest": found.mark.step if found else None,
        "latest_after": after.mark.step if after else None,
        "left_over": [path.name for path in disk.iterdir() if path.suffix],
    }


def _torch_story(disk: Path) -> dict[str, Any]:
    import torch

    from raykd.errors import StorageError
    from raykd.student import space

    (disk / "step").mkdir()
    try:
        with space.needed(disk / "step", "a checkpoint"):
            torch.save({"weights": torch.ones(2 * MIB)}, disk / "step" / "weights.pt")
    except StorageError as error:
        return {"message": str(error)}
    return {"message": "nothing was raised"}


def _read_only_story(disk: Path) -> dict[str, Any]:
    from store_cases import documents, filled, open_store, packed, teach

    from raykd.errors import StoreError
    from tests.codec_specs import TOP_K

    rows, message = packed(documents(10)), ""
    filled(disk / "store", TOP_K, rows)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        open_store(disk / "store", TOP_K)
    except StoreError as error:
        message = str(error)
    read = open_store(disk / "store", TOP_K, write=False).read(rows)
    return {"message": message, "equal": read.equals(teach(rows, TOP_K))}


def _used(disk: Path) -> int:
    return MIB - shutil.disk_usage(disk).free


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.path.insert(0, str(HERE.parents[2]))
    stories = {
        "store": _store_story,
        "checkpoint": _checkpoint_story,
        "torch": _torch_story,
        "read_only": _read_only_story,
    }
    print(json.dumps(stories[sys.argv[1]](Path(sys.argv[2]))))
