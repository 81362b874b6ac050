"""What looks like a secret, and must not travel: a submission is stored in clear on the cluster.

Ray keeps entry point, runtime environment and metadata of a job as they were sent, and shows them
to everyone who reaches its dashboard; raykd copies the job into the run directory and the report.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from raykd.errors import SubmissionError
from raykd.submission import token

SHORTEST_VALUE: Final = 12
"""Characters; shorter values of variables are switches and numbers, not keys."""

_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)
_PLACE = re.compile(r"_(?:PATH|FILE|DIR|URL|HOME)$", re.IGNORECASE)
_FIELD = re.compile(
    r"(?:^|.*_)(?:token|secret|password|passwd|api_?key|access_key|private_key|credentials?)$",
    re.IGNORECASE,
)
_FORMS: Final = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a URL with a password": r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@",
    "a signed URL": r"[?&](?:X-Amz-Signature|X-Goog-Signature|sig)=",
}
_INSTEAD = (
    "it would be stored in clear in Ray's job metadata, the run directory and the report. Set a "
    "variable on the cluster and give its name (--env NAME), or mount a file; see docs/security.md"
)


def refuse_override(text: str) -> None:
    """Refuse a `--set` that carries a secret.

    Args:
        text: As given, `key=value`.

    Raises:
        SubmissionError: Its key or its value looks like one; the value is not repeated.
    """
    key, _, value = text.partition("=")
    if _FIELD.fullmatch(key.strip().rsplit(".", 1)[-1]):
        raise SubmissionError(f"--set {key}: names a secret, and {_INSTEAD}")
    found = form_of(value)
    if found is not None:
        raise SubmissionError(f"--set {key}: the value looks like {found}; {_INSTEAD}")


def refuse_text(text: str, name: str) -> None:
    """Refuse a job file that carries a secret.

    Args:
        text: The file's.
        name: The file's, for messages.

    Raises:
        SubmissionError: A line of it looks like one; file and line are named, not the value.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        found = form_of(line)
        if found is not None:
            raise SubmissionError(f"{name}:{number}: looks like {found}; {_INSTEAD}")


def form_of(text: str) -> str | None:
    """What kind of secret a text holds by its form; None where it holds none that is known."""
    for what, form in _FORMS.items():
        if re.search(form, text):
            return what
    return None


def values_here(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Secrets that this process knows, by the names of their variables, Ray's token among them."""
    found = {
        name: value
        for name, value in environment.items()
        if _NAME.search(name) and not _PLACE.search(name) and len(value) >= SHORTEST_VALUE
    }
    ray = token.read(environment)
    return {**found, "Ray's token": ray} if ray and len(ray) >= SHORTEST_VALUE else found


def held_by(content: bytes, values: Mapping[str, str]) -> str | None:
    """The name of a secret whose value stands in `content`; None where none does."""
    for name, value in values.items():
        if value.encode() in content:
            return name
    return None


def refuse_values(texts: Iterable[tuple[str, str]], values: Mapping[str, str]) -> None:
    """Refuse texts in which the value of a secret of this process stands.

    Args:
        texts: What each is called, and the text.
        values: Secrets by name.

    Raises:
        SubmissionError: Names the text and the variable.
    """
    for name, text in texts:
        variable = held_by(text.encode(), values)
        if variable is not None:
            raise SubmissionError(f"{name}: holds the value of {variable}; {_INSTEAD}")
