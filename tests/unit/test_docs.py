from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Import a script of docs/ by its name."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module


def test_the_job_file_reference_is_current(script) -> None:
    generate: ModuleType = script("generate")
    assert generate.TARGET.read_text(encoding="utf-8") == generate.render(), "run `make docs`"


def test_check_notices_an_old_reference(script, tmp_path: Path, monkeypatch, capsys) -> None:
    generate: ModuleType = script("generate")
    monkeypatch.setattr(generate, "TARGET", tmp_path / "job-file.md")
    assert generate.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_links_between_documents_resolve(script) -> None:
    links: ModuleType = script("links")
    names = {document.name for document in links.documents()}
    assert {"README.md", "CONTRIBUTING.md", "job-file.md", "architecture.md"} <= names
    assert [(d.name, what) for d in links.documents() for what in links.broken_links(d)] == []


def test_broken_links_are_found(script, tmp_path: Path) -> None:
    links: ModuleType = script("links")
    document = tmp_path / "page.md"
    document.write_text(
        "# Two words\n[a](#two-words) [b](#three) [c](none.md) [d](https://example.org/x)\n"
        "```\n[e](in-code.md)\n```\n"
    )
    assert list(links.broken_links(document)) == [
        "#three: no such heading",
        "none.md: no such file",
    ]
