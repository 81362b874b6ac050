"""Tokens, keys and passwords that are written into a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raykd.clusters.documents import Document, KeyPath
from raykd.clusters.finding import Finding, fix

SUBJECT = "secrets"

KNOWN = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{40,})",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Google API key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a signed token (JWT)": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
NAME = r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)"
ASSIGNED = re.compile(rf"(?i)\b(\w*{NAME})=[\"']?([^\s\"';&|]+)")
KEY = re.compile(rf"(?i)^[\w.-]*{NAME}$")
PLACEHOLDER = re.compile(
    r"(?i)[<>${}`*]|replace|change|your|placeholder|example|todo|xxx|dummy|^none$|^null$"
)
PLACE_OF_ONE = re.compile(r"^[~./]|^(?:s3|gs|file|https?):")
"""A path or address says where a secret is; it is none."""
FEWEST = 8
"""Characters of a secret; what is shorter is a word."""


def secret_findings(documents: list[Document]) -> Iterator[Finding]:
    """Name the lines that hold a secret; never the secret."""
    for document in documents:
        for at, value in _texts(document.tree, ()):
            what = _kind_of_secret(document, at, value)
            if what:
                yield fix(
                    SUBJECT,
                    f"{at[-1]}: {what} is written here; take it out, make a new one, and give "
                    "the file only the name of an environment variable, a mounted file or a Secret",
                    document.line(*at),
                )


def _texts(tree: Any, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _texts(value, (*at, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _texts(value, (*at, i))
    elif isinstance(tree, str):
        yield at, tree


def _kind_of_secret(document: Document, at: KeyPath, value: str) -> str | None:
    for what, pattern in KNOWN.items():
        if re.search(pattern, value) and not PLACEHOLDER.search(value):
            return what
    for name, assigned in ASSIGNED.findall(value):
        if _looks_real(assigned):
            return f"the value of {name}"
    name = _name_of(document, at)
    if name and KEY.match(name) and _looks_real(value):
        return f"the value of {name}"
    if document.tree.get("kind") == "Secret" and at[0] in ("data", "stringData"):
        return f"the value of {at[-1]}" if _looks_real(value) else None
    return None


def _name_of(document: Document, at: KeyPath) -> str | None:
    """The name that a value goes by: its key, or the `name` beside a `value`."""
    if at and at[-1] == "value":
        around: Any = document.tree
        for key in at[:-1]:
            around = around[key]
        return str(around.get("name", at[-2] if len(at) > 1 else ""))
    return str(at[-1]) if at and isinstance(at[-1], str) else None


def _looks_real(value: str) -> bool:
    return (
        len(value) >= FEWEST
        and not PLACEHOLDER.search(value)
        and not PLACE_OF_ONE.match(value)
        and " " not in value.strip()
    )
