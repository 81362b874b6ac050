from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raykd.errors import CorpusError, JobError
from raykd.package_paths import is_package_reference, resolve_package_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported."""
    root = tmp_path / "carried_text"
    (root / "inside").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (root / "inside" / "a.txt").write_text("a")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


@pytest.mark.parametrize("inside", ["", "inside", "inside/a.txt", "inside/*.txt", "**/*.txt"])
def test_paths_inside_are_found_without_importing(package: Path, inside: str) -> None:
    reference = "package:carried_text" + (f"/{inside}" if inside else "")
    assert resolve_package_path(reference) == package / inside
    assert "carried_text" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("package:no_such_package_here/x", r"no_such_package_here is not installed"),
        ("package:carried_text/none.txt", r"nothing at 'none\.txt'"),
        ("package:carried_text/*.parquet", r"nothing at '\*\.parquet'"),
        ("package:carried_text/../secret", r"no '\.\.'"),
        ("package:carried_text//etc/passwd", r"stay inside"),
        ("package:a.b/x", r"package:NAME/inside/path"),
        ("package:", r"package:NAME/inside/path"),
        ("carried_text/x", r"package:NAME/inside/path"),
        ("package:this", r"single module"),
        ("package:__main__", r"__main__"),
    ],
)
def test_errors_say_what_to_do(package: Path, reference: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        resolve_package_path(reference, CorpusError)
    with pytest.raises(JobError):
        resolve_package_path(reference)


def test_references_are_told_from_paths() -> None:
    assert is_package_reference("package:x/y")
    assert not is_package_reference("/data/package:x")
