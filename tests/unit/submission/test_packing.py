from __future__ import annotations

from pathlib import Path

import pytest

from raykd.errors import SubmissionError
from raykd.submission import packing
from raykd.submission.packing import choose, place_of_job, stage, told


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in (
        "jobs/x.yaml", "texts/a.jsonl", "texts/b.jsonl", "code.py", "run.sh", "notes.tmp",
        "deep/er/notes.tmp", "deep/keep.txt", "deep/local.txt",
        ".git/config", ".venv/bin/python", "__pycache__/code.pyc", "runs/tiny/job.yaml",
        "node_modules/x.js", ".cache/x",
        "model/model.safetensors", "model/config.json", "old.pt", "q.gguf", "pytorch_model.bin",
        ".env", ".env.local", "id_rsa", "tls.pem", ".ssh/config", ".aws/credentials", "auth_token",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "run.sh").chmod(0o755)
    (root / ".gitignore").write_text("*.tmp\n/texts/b.jsonl\n")
    (root / "deep" / ".rayignore").write_text("/local.txt\n")
    return root


def test_what_travels(project: Path) -> None:
    packed = choose(project, {})
    assert {str(path) for path in packed.files} == {
        "jobs/x.yaml", "texts/a.jsonl", "code.py", "run.sh", "deep/keep.txt", "model/config.json",
    }  # fmt: skip
    assert packed.num_bytes == sum(len(str(path)) for path in packed.files)
    left = {reason: {str(p) for p in paths} for reason, paths in packed.left_out.items()}
    assert left == {
        "weights": {"model/model.safetensors", "old.pt", "q.gguf", "pytorch_model.bin"},
        "keys": {".env", ".env.local", "id_rsa", "tls.pem", ".ssh", ".aws", "auth_token"},
    }
    lines = told(packed)
    assert lines[0].startswith("packed 6 files, 0.0 MB")
    assert "left out (keys): .aws, .env, .env.local and 4 more" in lines


def test_links_that_lead_out_do_not_travel(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private").write_text("mine")
    (project / "a_file").symlink_to(tmp_path / "elsewhere" / "private")
    (project / "a_directory").symlink_to(tmp_path / "elsewhere")
    (project / "inside").symlink_to(project / "code.py")
    (project / "nothing").symlink_to(project / "not-there")
    packed = choose(project, {})
    names = {str(path) for path in packed.files}
    assert "inside" in names
    assert not names & {"a_file", "a_directory", "a_directory/private", "nothing"}
    assert [str(p) for p in packed.left_out["links that lead elsewhere"]] == [
        "a_directory", "a_file",
    ]  # fmt: skip


def test_large_files_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST_FILE_BYTES", 1000)
    choose(project, {})
    (project / "texts" / "large.parquet").write_bytes(b"x" * 1001)
    with pytest.raises(SubmissionError, match=r"^texts/large\.parquet: .* too large to travel"):
        choose(project, {})
    (project / ".rayignore").write_text("*.parquet\n")
    choose(project, {})


def test_too_much_in_all(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST_PACKAGE_BYTES", 20)
    with pytest.raises(SubmissionError, match="give the directory of the project"):
        choose(project, {})


def test_too_many_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_FILES", 5)
    with pytest.raises(SubmissionError, match="or 5 files; give"):
        choose(project, {})


def test_a_file_with_a_secret_is_refused(project: Path) -> None:
    (project / "code.py").write_text("key = 'canary-value-of-a-key'\n")
    with pytest.raises(SubmissionError, match=r"^code\.py: holds the value of HF_TOKEN") as refused:
        choose(project, {"HF_TOKEN": "canary-value-of-a-key"})
    assert "canary" not in str(refused.value)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"^--working-dir: .*none: not a directory"):
        choose(tmp_path / "none", {})


def test_the_staged_copy(project: Path, tmp_path: Path) -> None:
    packed = choose(project, {})
    target = tmp_path / "staged"
    stage(packed, project / "jobs" / "x.yaml", target)
    found = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert found == {str(path) for path in packed.files}
    assert (target / "code.py").read_text() == "code.py"
    assert (target / "run.sh").stat().st_mode & 0o111
    assert not (target / "code.py").stat().st_mode & 0o111


def test_a_job_file_from_elsewhere_or_ignored_travels(project: Path, tmp_path: Path) -> None:
    (project / ".gitignore").write_text("jobs/\n")
    packed = choose(project, {})
    assert Path("jobs/x.yaml") not in packed.files
    stage(packed, project / "jobs" / "x.yaml", tmp_path / "one")
    assert (tmp_path / "one" / "jobs" / "x.yaml").is_file()
    elsewhere = tmp_path / "y.yaml"
    elsewhere.write_text("name: y")
    assert place_of_job(elsewhere, packed) == Path("submitted/y.yaml")
    stage(packed, elsewhere, tmp_path / "two")
    assert (tmp_path / "two" / "submitted" / "y.yaml").read_text() == "name: y"
