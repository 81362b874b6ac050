"""Which cluster: the URL of Ray's job API."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from raykd.errors import SubmissionError

DEFAULT: Final = "http://127.0.0.1:8265"
VARIABLES: Final = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray's own commands look, in this order."""
_REACH = (
    "give the URL of the dashboard, such as http://127.0.0.1:8265; from outside it is reached "
    "through `ray dashboard CLUSTER.yaml`, `ssh -L 8265:127.0.0.1:8265 HEAD` or `kubectl "
    "port-forward service/NAME-head-svc 8265`"
)


def resolve(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The URL that a command speaks to.

    What was given on the command line is taken before any variable; Ray's own client does it the
    other way round.

    Args:
        given: `--address`.
        environment: Variables of the process.

    Returns:
        An http or https URL without a trailing slash.

    Raises:
        SubmissionError: It is no such URL, or holds a password.
    """
    where, address = "--address", given
    for name in VARIABLES:
        if address is None and environment.get(name):
            where, address = name, environment[name]
    address = (address or DEFAULT).rstrip("/")
    url = _split(address, where)
    if url.username or url.password:
        raise SubmissionError(
            f"{where}: {url.hostname}: user and password stand in the URL, which is printed; Ray's "
            "token comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        )
    return address


def _split(address: str, where: str) -> SplitResult:
    try:
        url = urlsplit(address)
        ok = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        ok = False
    if not ok:
        raise SubmissionError(f"{where}: {address!r} is not the URL of a job API; {_REACH}")
    return url


def shows_token_in_clear(address: str) -> bool:
    """Whether a token sent there can be read on the way: plain http to another machine."""
    url = urlsplit(address)
    if url.scheme == "https" or url.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return True
