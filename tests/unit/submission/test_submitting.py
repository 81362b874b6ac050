"""A submission from the files to what the job API receives."""

from __future__ import annotations

import io
import json
import platform
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raykd.errors import JobError, SubmissionError
from raykd.submission.request import EntryResources
from raykd.submission.submit import Wish, submit

CANARY = "canary-value-of-this-machine"


@pytest.fixture
def api(job_api: Any) -> Any:
    job_api.metadata = {"rayVersion": ray.__version__, "pythonVersion": platform.python_version()}
    return job_api


@pytest.fixture
def project(tmp_path: Path, job_tree: dict[str, Any]) -> Path:
    root = tmp_path / "project"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs" / "x.yaml").write_text(yaml.safe_dump(job_tree))
    (root / "code.py").write_text("x = 1\n")
    (root / "model.safetensors").write_text("weights")
    return root


def wish(project: Path, **changes: Any) -> Wish:
    return Wish(**{"job_file": project / "jobs" / "x.yaml", "working_dir": project, **changes})


def contents(api: Any) -> dict[str, bytes]:
    """Files of the package that was sent."""
    [package] = api.packages.values()
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def test_what_is_sent(api: Any, project: Path) -> None:
    notes: list[str] = []
    asked = wish(
        project,
        overrides=["seed=5", "name=other"],
        variables=["HF_TOKEN"],
        resources=EntryResources(num_cpus=0.5),
        stop_wait_s=60,
    )
    _, identity = submit(asked, api.url, notes.append)
    [sent] = api.sent
    assert sent["submission_id"] == identity
    assert identity.startswith("other-2")
    assert shlex.split(sent["entrypoint"]) == [
        "python", "-m", "raykd", "run", "jobs/x.yaml", "--resume", "--set", "seed=5",
        "--set", "name=other", "--require-env", "HF_TOKEN",
    ]  # fmt: skip
    assert sent["entrypoint_num_cpus"] == 0.5
    assert sent["metadata"]["raykd_run"] == "other"
    assert sent["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert sent["runtime_env"]["working_dir"].startswith("gcs://")
    assert set(contents(api)) == {"jobs/x.yaml", "code.py"}
    assert notes[0].startswith("packed 2 files")
    assert notes[1] == "left out (weights): model.safetensors"


def test_a_job_file_from_elsewhere_travels_too(api: Any, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "y.yaml"
    (project / "jobs" / "x.yaml").rename(elsewhere)
    submit(wish(project, job_file=elsewhere), api.url, lambda _: None)
    assert set(contents(api)) == {"submitted/y.yaml", "code.py"}
    assert " run submitted/y.yaml --resume" in api.sent[0]["entrypoint"]


def test_no_secret_of_this_machine_is_sent(
    api: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    (project / ".env").write_text(f"HF_TOKEN={CANARY}")
    submit(wish(project, variables=["HF_TOKEN"]), api.url, lambda _: None)
    assert CANARY not in json.dumps(api.sent)
    assert all(CANARY.encode() not in data for data in contents(api).values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": [f"storage_path=/{CANARY}"]}, "--set storage_path: holds the value of HF_T"),
        ({"submission_id": CANARY}, "--submission-id: holds the value of HF_TOKEN"),
        ({"overrides": ["teacher.api_key=x"]}, "--set teacher.api_key: names a secret"),
        ({"variables": ["HF_TOKEN=x"]}, "--env HF_TOKEN: takes the name"),
        ({"overrides": ["storage_path=runs"]}, "storage_path: 'runs' is relative"),
        ({"overrides": ["loss.alpha=2"]}, "--set loss.alpha=2: loss.alpha: "),
        ({"overrides": ["name=../up"]}, "a run's name is a directory's name"),
        ({"job_file": Path("none.yaml")}, "none.yaml: no such job file"),
    ],
)
def test_nothing_is_sent_where_something_is_wrong(
    api: Any, project: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    with pytest.raises(JobError) as refused:
        submit(wish(project, **changes), api.url, lambda _: None)
    assert said in str(refused.value)
    assert CANARY not in str(refused.value)
    assert api.sent == []
    assert api.packages == {}


def test_secrets_in_files(api: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    (project / "code.py").write_text(f"login({CANARY!r})")
    with pytest.raises(SubmissionError, match=r"^code\.py: holds the value of HF_TOKEN"):
        submit(wish(project), api.url, lambda _: None)
    job = project / "jobs" / "x.yaml"
    job.write_text(job.read_text() + f"# {CANARY}\n")
    with pytest.raises(SubmissionError, match=r"x\.yaml: holds the value of HF_TOKEN"):
        submit(wish(project), api.url, lambda _: None)
    assert api.packages == {}


@pytest.mark.parametrize(
    ("metadata", "version", "said"),
    [
        ({"pythonVersion": "3.9.1"}, None, "Python 3.9.1 on the cluster"),
        (None, "2.8.0", "Ray 2.8.0 on the cluster"),
    ],
)
def test_a_cluster_of_other_versions_is_named_first(
    api: Any, project: Path, metadata: Any, version: str | None, said: str
) -> None:
    api.metadata = metadata
    if version:
        api.version["ray_version"] = version
    with pytest.raises(SubmissionError, match=said):
        submit(wish(project), api.url, lambda _: None)
    assert api.sent == []
    assert api.packages == {}
    notes: list[str] = []
    submit(wish(project, other_versions=True), api.url, notes.append)
    assert len(api.sent) == 1
    assert any(said in note for note in notes)


def test_a_run_that_goes_on_is_not_sent_again(
    api: Any, project: Path, details: Callable[..., dict[str, Any]]
) -> None:
    api.jobs = [details("tiny-1")]
    with pytest.raises(SubmissionError, match="'tiny' is being run by submission tiny-1"):
        submit(wish(project), api.url, lambda _: None)
    assert api.packages == {}
    submit(wish(project, overrides=["name=beside"]), api.url, lambda _: None)
