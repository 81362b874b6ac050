"""Secrets are found by form and by name; placeholders, paths and references are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_cases import AWS, KUBERAY, complaints, line_of, spoilt

# Made up, and cut in two so that nothing here looks like a secret to a scanner.
TOKENS = {
    "Hugging Face": "hf_" + "aB3" * 10,
    "AWS access key": "AKI" + "A1B2C3D4E5F6G7H8I",
    "GitHub": "gh" + "p_" + "x9Y8" * 9,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "JWT": "ey" + "JhbGciOiJIUzI1." + "ey" + "JzdWIiOiIxMjM0NTY." + "c2lnbmF0dXJlMTIz",
    "Google": "AI" + "za" + "S" * 35,
}


@pytest.mark.parametrize("what", TOKENS)
def test_what_looks_like_a_token_is_named_and_not_shown(tmp_path: Path, what: str) -> None:
    bad = AWS + f"setup_commands:\n  - ls\n  - 'login {TOKENS[what]}'\n"
    found = [each for each in complaints(tmp_path, bad) if each.subject == "secrets"]
    assert [(each.level, each.line) for each in found] == [("fix this", line_of(bad, "  - 'login"))]
    assert what in found[0].text
    assert TOKENS[what] not in found[0].text


@pytest.mark.parametrize(
    "command",
    [
        "export RAY_AUTH_TOKEN=0f9e8d7c6b5a",
        "docker login --env DB_PASSWORD='correcthorse'",
        "WANDB_API_KEY=0123456789abcdef0123 python x.py",
    ],
)
def test_a_value_given_to_a_secrets_name(tmp_path: Path, command: str) -> None:
    bad = AWS + f'setup_commands:\n  - "{command}"\n'
    found = [each for each in complaints(tmp_path, bad) if each.subject == "secrets"]
    assert [each.line for each in found] == [line_of(bad, '  - "')]


@pytest.mark.parametrize(
    "command",
    [
        "export RAY_AUTH_TOKEN=$(cat /run/token)",
        "export RAY_AUTH_TOKEN=${TOKEN}",
        "export RAY_AUTH_TOKEN_PATH=/run/secrets/token",
        "export HF_TOKEN=REPLACE_ME_BEFORE_USE",
        "export HF_TOKEN=<your token>",
        "export RAY_AUTH_MODE=token",
        "ray get-auth-token --generate",
    ],
)
def test_references_paths_and_placeholders_are_no_secrets(tmp_path: Path, command: str) -> None:
    good = AWS + f'setup_commands:\n  - "{command}"\n'
    assert [each for each in complaints(tmp_path, good) if each.subject == "secrets"] == []


ENVIRONMENT = "            image:"


@pytest.mark.parametrize(
    ("entry", "is_secret"),
    [
        ("{name: HF_TOKEN, value: abcdef0123456}", True),
        ("{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: hf_token}}}", False),
        ("{name: HF_TOKEN, value: $(FROM_ELSEWHERE)}", False),
        ("{name: HF_HOME, value: abcdef0123456}", False),
    ],
)
def test_environment_of_a_container(tmp_path: Path, entry: str, is_secret: bool) -> None:
    text = spoilt(KUBERAY, ENVIRONMENT, f"            env: [{entry}]\n{ENVIRONMENT}")
    found = [each for each in complaints(tmp_path, text) if each.subject == "secrets"]
    assert [each.line for each in found] == ([line_of(text, "env: [")] if is_secret else [])


@pytest.mark.parametrize(
    ("value", "is_secret"), [("d3Jvbmc5ODc2NTQz", True), ("REPLACE_ME", False)]
)
def test_a_secret_manifest_with_its_value(tmp_path: Path, value: str, is_secret: bool) -> None:
    text = KUBERAY + (
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\n"
        f"stringData:\n  auth_token: {value}\n"
    )
    found = [each for each in complaints(tmp_path, text) if each.subject == "secrets"]
    assert [each.line for each in found] == ([line_of(text, "auth_token")] if is_secret else [])
