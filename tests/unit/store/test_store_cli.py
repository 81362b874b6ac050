"""`raykd store` on the command line."""

from pathlib import Path
from typing import Any

import pytest
from store_cases import documents, filled, packed, section_of, shard_paths
from test_store_faults import flip
from typer.testing import CliRunner

from raykd import store_cli
from raykd.cli import app
from tests.codec_specs import SAMPLED, TOP_K


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    for spec in (TOP_K, SAMPLED):
        filled(tmp_path, spec, packed(documents(10)))
    return tmp_path


def invoke(*arguments: str) -> Any:
    wide = {"COLUMNS": "300", "TERM": "dumb"}
    return CliRunner().invoke(app, ["store", *arguments], env=wide)


def test_ls_lists_sections(store_dir: Path) -> None:
    result = invoke("ls", str(store_dir))
    assert result.exit_code == 0, result.output
    for text in (section_of(TOP_K).name, "a teacher", "top_k 3", "draws 9", "just now"):
        assert text in result.output


def test_ls_says_what_cannot_be_read(store_dir: Path) -> None:
    (store_dir / section_of(TOP_K).name / "section.json").write_text("")
    result = invoke("ls", str(store_dir))
    assert result.exit_code == 0
    assert "cannot be read, see below" in result.output
    assert "is no description of a section" in result.output


def test_ls_of_nothing_says_so(tmp_path: Path) -> None:
    result = invoke("ls", str(tmp_path))
    assert result.exit_code == 0
    assert "holds no soft targets" in result.output


def test_verify_ends_with_1_where_something_is_bad(store_dir: Path) -> None:
    result = invoke("verify", str(store_dir))
    assert result.exit_code == 0, result.output
    assert "2 shards in 2 sections" in result.output
    assert "0 bad" in result.output
    flip(shard_paths(store_dir)[0], 300)
    result = invoke("verify", str(store_dir))
    assert result.exit_code == 1
    assert f"bad  {shard_paths(store_dir)[0]}" in result.output
    assert f"raykd store prune --bad {store_dir}" in result.output


def test_prune_says_what_it_removes(store_dir: Path) -> None:
    bad = shard_paths(store_dir)[0]
    flip(bad, 300)
    planned = invoke("prune", str(store_dir), "--bad", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert f"would remove  shard {bad}" in planned.output
    assert bad.exists()
    done = invoke("prune", str(store_dir), "--bad")
    assert f"removed  shard {bad}" in done.output
    assert not bad.exists()
    assert invoke("verify", str(store_dir)).exit_code == 0
    name = section_of(SAMPLED).name
    assert invoke("prune", str(store_dir), "--section", name).exit_code == 0
    assert not (store_dir / name).exists()
    assert "0 things" in invoke("prune", str(store_dir), "--older-than-days", "1").output


def test_an_error_is_one_message(store_dir: Path) -> None:
    result = invoke("verify", str(store_dir), "--section", "nosuch")
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert "has no section nosuch" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (86400 * 3, "3 days ago")],
)
def test_ages(seconds: float, said: str) -> None:
    assert store_cli._ago(seconds) == said


def test_verify_of_nothing_is_not_good(tmp_path: Path) -> None:
    result = invoke("verify", str(tmp_path / "misspelt"))
    assert result.exit_code == 1
    assert "holds no soft targets" in result.output
