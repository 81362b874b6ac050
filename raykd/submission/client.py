"""Ray's job API: one connection, its errors in plain words, what the cluster is."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raykd.errors import SubmissionError
from raykd.submission import address as addresses
from raykd.submission import token
from raykd.submission.versions import Versions

METADATA = "/api/v0/cluster_metadata"
"""Answers with Ray's and Python's version of the head."""


def connect(address: str) -> Any:
    """A client of the job API at `address`.

    Args:
        address: URL; see `addresses.resolve`.

    Returns:
        Ray's `JobSubmissionClient`.

    Raises:
        SubmissionError: Nothing answers there, or it asks for another token.
    """
    token.show()
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with plain_errors(address), _without_variables():
        return JobSubmissionClient(address)


def versions_of(client: Any, address: str) -> Versions:
    """The cluster's versions, by the job API and the head's metadata."""
    with plain_errors(address):
        answer = client._do_request("GET", METADATA)
        told = answer.json().get("data", {}) if answer.status_code == 200 else {}
        return Versions(
            ray=client._server_ray_version,
            python=told.get("pythonVersion") or told.get("python_version"),
        )


@contextmanager
def plain_errors(address: str) -> Iterator[None]:
    """Turn what a request may raise into one message.

    Raises:
        SubmissionError: The cluster does not answer, or refuses.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise SubmissionError(_refused(address, str(error))) from None
    except requests.exceptions.JSONDecodeError:
        raise SubmissionError(f"{address}: answers, but not as Ray's job API does") from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise SubmissionError(
            f"{address}: no job API answers ({_first_line(error)}); is the cluster up, and the "
            "dashboard's port forwarded? --address takes another URL"
        ) from None
    except (RuntimeError, KeyError) as error:
        raise SubmissionError(f"{address}: {_first_line(error)}") from None


def _refused(address: str, text: str) -> str:
    sent = token.source()
    if text.startswith("Authentication failed"):
        return (
            f"{address}: the cluster refuses the token from {sent}: it is another cluster's, or "
            "an old one. Give the one that the cluster was started with"
        )
    if text.startswith("Authentication required") and os.environ.get(token.MODE) == "token":
        sent = None
    if text.startswith("Authentication required"):
        why = "none is here" if sent is None else f"{token.MODE} keeps that of {sent} back"
        return (
            f"{address}: the cluster asks for a token, and {why}: set {token.FILE} or "
            f"{token.VALUE}, or put the cluster's token into {token.default_file()}"
        )
    return f"{address}: {text.splitlines()[0]}"


def _first_line(error: BaseException) -> str:
    """The first line that says something, without Ray's words around a traceback."""
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


@contextmanager
def _without_variables() -> Iterator[None]:
    """Ray's client would go where these say, whatever address it is given."""
    kept = {name: os.environ.pop(name) for name in addresses.VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
