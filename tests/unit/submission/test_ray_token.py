from __future__ import annotations

from pathlib import Path

import pytest

from raykd.submission import token


def home_file() -> Path:
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("token-in-the-home\n")
    return path


def test_none() -> None:
    assert token.source({}) is None
    assert token.read({}) is None
    environment: dict[str, str] = {}
    token.show(environment)
    assert environment == {}


def test_the_value_goes_before_the_path_and_the_path_before_the_home(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.write_text("token-of-a-file\n")
    home = home_file()
    assert token.source({}) == str(home)
    assert token.read({}) == "token-in-the-home"
    environment = {"RAY_AUTH_TOKEN_PATH": str(mounted)}
    assert token.source(environment) == f"RAY_AUTH_TOKEN_PATH={mounted}"
    assert token.read(environment) == "token-of-a-file"
    environment["RAY_AUTH_TOKEN"] = "token-of-a-variable"
    assert token.source(environment) == "RAY_AUTH_TOKEN"
    assert token.read(environment) == "token-of-a-variable"


def test_what_is_named_but_not_there(tmp_path: Path) -> None:
    assert token.read({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) is None


def test_the_mode_is_set_only_where_nobody_set_it() -> None:
    environment = {"RAY_AUTH_TOKEN": "a-token"}
    token.show(environment)
    assert environment["RAY_AUTH_MODE"] == "token"
    environment["RAY_AUTH_MODE"] = "disabled"
    token.show(environment)
    assert environment["RAY_AUTH_MODE"] == "disabled"


def test_ray_reads_the_token_from_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order above is Ray's; its loader caches, so a process of its own asks it."""
    import os
    import subprocess
    import sys

    home_file()
    code = (
        "from ray._raylet import AuthenticationTokenLoader as L\n"
        "print(L.instance().get_token_for_http_header()['authorization'])\n"
    )
    mounted = Path.home() / "mounted"
    mounted.write_text("token-of-a-file")
    variables = {**os.environ, "RAY_AUTH_MODE": "token"}
    for extra in ({}, {"RAY_AUTH_TOKEN_PATH": str(mounted)}, {"RAY_AUTH_TOKEN": "of-a-variable"}):
        variables |= extra
        done = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[-1] == token.read(variables)
