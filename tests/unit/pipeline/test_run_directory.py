from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.endpoint import EndpointConfig
from raykd.errors import StorageError
from raykd.pipeline.run_dir import MAY_CHANGE, RunDirectory, claim, load_run_job

MakeJob = Callable[..., Any]


def begin(job: Any) -> RunDirectory:
    """A run that has learned something."""
    run = claim(job, resume=False)
    run.metrics.touch()
    return run


def test_a_fresh_run(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    run = claim(job, resume=False)
    assert run.root == tmp_path / "runs" / "tiny"
    assert run.logs.is_dir()
    assert run.model_cache.is_dir()
    assert load_run_job(run.root) == job
    assert {path.name for path in run.root.iterdir()} == {"job.yaml", "logs"}


def test_everything_lies_in_the_run_directory(make_job: MakeJob) -> None:
    run = RunDirectory.of(make_job())
    places = [run.job_file, run.data, run.student, run.checkpoints, run.metrics, run.stop_file]
    assert all(run.root in place.parents for place in places)
    assert run.targets("heldout").parent == run.data


def test_a_run_that_has_begun_is_not_overwritten(make_job: MakeJob) -> None:
    run = begin(make_job())
    before = run.job_file.read_text()
    with pytest.raises(StorageError) as caught:
        claim(make_job({"seed": 9}), resume=False)
    assert f"{run.root} holds a run already: --resume goes on with it" in str(caught.value)
    assert "--set name=OTHER" in str(caught.value)
    assert run.job_file.read_text() == before


@pytest.mark.parametrize("left", ["checkpoints", "student"])
def test_what_a_run_made_counts_as_begun(left: str, make_job: MakeJob) -> None:
    run = claim(make_job(), resume=False)
    (run.root / left).mkdir()
    with pytest.raises(StorageError, match="holds a run already"):
        claim(make_job(), resume=False)


def test_a_run_in_which_nothing_was_learned_may_be_corrected(make_job: MakeJob) -> None:
    run = claim(make_job({"seed": 1}), resume=False)
    for directory in (run.initial_student, run.data):
        directory.mkdir()
    run.targets("heldout").touch()
    job = make_job({"seed": 2})
    assert claim(job, resume=False) == run
    assert load_run_job(run.root) == job
    assert not run.initial_student.exists()
    assert not run.targets("heldout").exists()


def test_resuming_what_is_not_there_begins_it(make_job: MakeJob) -> None:
    run = claim(make_job(), resume=True)
    assert run.job_file.is_file()
    assert claim(make_job(), resume=True) == run


def test_a_run_killed_as_it_began_is_nobodys(make_job: MakeJob) -> None:
    root = RunDirectory.of(make_job()).root
    root.mkdir(parents=True)
    for left in ("driver.lease", ".driver.lease.ab", "job.aside", ".probe-ab"):
        (root / left).touch()
    assert claim(make_job(), resume=True).job_file.is_file()


def test_the_same_job_goes_on(make_job: MakeJob) -> None:
    run = begin(make_job())
    run.stop_file.touch()
    assert claim(make_job(), resume=True) == run
    assert not run.stop_file.exists(), "an old stop would end the new run"


def test_another_job_does_not_go_on(make_job: MakeJob) -> None:
    run = begin(make_job())
    before = run.job_file.read_text()
    with pytest.raises(StorageError) as caught:
        claim(make_job({"loss.alpha": 0.5, "seed": 4, "stream.num_loaders": 2}), resume=True)
    message = str(caught.value)
    assert "  seed: was 3, now 4" in message
    assert "  loss.alpha: was 0.0, now 0.5" in message
    assert "num_loaders: was" not in message
    assert run.job_file.read_text() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.corpus.split", "test"),
        ("student.lora", {"r": 4}),
        ("student.zero_stage", 2),
        ("evaluation.sets", {"more": {"source": "x"}}),
        ("teacher.dtype", "bf16"),
        ("soft_targets.top_k", 9),
        ("train.optimizer.lr", 0.5),
    ],
)
def test_what_decides_the_numbers_may_not_change(field: str, value: Any, make_job: MakeJob) -> None:
    begin(make_job())
    with pytest.raises(StorageError, match=rf"  {field}"):
        claim(make_job({field: value}), resume=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("checkpoint.every_steps", 7),
        ("checkpoint.keep", 5),
        ("stream.steps_per_block", 4),
        ("tracking.tensorboard", True),
        ("teacher.replicas", 3),
        ("teacher.tensor_parallel", 2),
        ("teacher.device", "gpu"),
        ("teacher.labels", {"zone": "a"}),
        ("teacher.micro_batch_tokens", 100),
        ("student.num_workers", 2),
        ("student.cpus_per_worker", 2.0),
        ("soft_targets.store_mode", "fill"),
        ("soft_targets.store", "/kept"),
        ("student.labels", {"zone": "a"}),
        ("student.activation_checkpointing", True),
        ("train.micro_batch", 4),
    ],
)
def test_where_and_how_fast_may_change(field: str, value: Any, make_job: MakeJob) -> None:
    run = begin(make_job())
    job = make_job({field: value})
    claim(job, resume=True)
    assert load_run_job(run.root) == job


def test_fields_that_may_change_exist(make_job: MakeJob) -> None:
    tree = make_job().model_dump()
    tree["teacher"]["endpoint"] = EndpointConfig(base_url="http://vllm:8000/v1").model_dump()
    for path in MAY_CHANGE:
        spot = tree
        for part in path.split("."):
            assert part in spot, path
            spot = spot[part]


def test_a_moved_run_goes_on(make_job: MakeJob, tmp_path: Path) -> None:
    run = begin(make_job())
    run.root.parent.rename(tmp_path / "moved")
    found = claim(make_job({"storage_path": str(tmp_path / "moved")}), resume=True)
    assert found.root == tmp_path / "moved" / "tiny"


def test_a_directory_of_something_else_is_left_alone(make_job: MakeJob) -> None:
    root = RunDirectory.of(make_job()).root
    root.mkdir(parents=True)
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty and is not a run of raykd"):
        claim(make_job(), resume=False)
    assert [path.name for path in root.iterdir()] == ["thesis.txt"]


def test_an_empty_directory_is_taken(make_job: MakeJob) -> None:
    root = RunDirectory.of(make_job()).root
    root.mkdir(parents=True)
    assert claim(make_job(), resume=False).root == root


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_storage_that_cannot_be_written(place: str, make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError) as caught:
        claim(make_job({"storage_path": str(tmp_path / place)}), resume=False)
    assert str(caught.value).startswith(f"storage_path: {tmp_path / place / 'tiny'} cannot be writ")
    assert caught.value.exit_code == 2


def test_a_file_in_place_of_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        claim(make_job(), resume=False)


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"not a run directory \(it has no job\.yaml\)"):
        load_run_job(tmp_path)


@pytest.mark.parametrize("content", [b"a: [", b"caf\xe9: 1\n"])
def test_a_job_of_a_run_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read as the run's job"):
        load_run_job(tmp_path)
