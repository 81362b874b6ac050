"""What an endpoint says of each token that it wrote: how it comes, and how it is kept.

Kept are the bytes of a token where they are known: a token may be half a character, of which text
shows nothing. vLLM and SGLang can be told to give ids instead (`token_id:123`).
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Iterable
from typing import Any, Final

Token = int | str | None
"""An id; or bytes as Latin-1, one character a byte; or None where the endpoint does not tell."""
Likely = tuple[Token, float]
Told = tuple[Token, float, list[Likely]]
"""The token that was written, its log probability, and the likeliest in its place."""

_ID: Final = re.compile(r"token_id:(\d+)")
_BYTES: Final = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
_UNKNOWN: Final = "\ufffd"
"""Stands in text for bytes that are no character."""


def read_logprobs(told: Any) -> list[Told] | None:
    """Read the `logprobs` of a chat's or a text's choice.

    Args:
        told: As it came.

    Returns:
        One for each token; None where they are not all there, or nothing is said of other tokens.
    """
    if not isinstance(told, dict):
        return None
    try:
        tokens = _of_chat(told["content"]) if told.get("content") else _of_text(told)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tokens if any(likely for _, _, likely in tokens) else None


def _of_chat(content: list[dict[str, Any]]) -> list[Told]:
    return [
        (*_of_entry(one), [_of_entry(other) for other in one.get("top_logprobs") or []])
        for one in content
    ]


def _of_entry(one: dict[str, Any]) -> Likely:
    return _token(one["token"], one.get("bytes")), _number(one["logprob"])


def _of_text(told: dict[str, Any]) -> list[Told]:
    columns = (told["tokens"], told["token_logprobs"], told["top_logprobs"])
    return [
        (_token(text), _number(value), _likely(likely))
        for text, value, likely in zip(*columns, strict=True)
    ]


def _likely(named: dict[str, float] | None) -> list[Likely]:
    pairs: Iterable[tuple[str, float]] = (named or {}).items()
    return [(_token(text), _number(value)) for text, value in pairs]


def _token(text: str, as_bytes: list[int] | None = None) -> Token:
    if found := _ID.fullmatch(text):
        return int(found.group(1))
    if as_bytes is not None:
        return bytes(as_bytes).decode("latin-1")
    if found := _BYTES.fullmatch(text):
        return bytes.fromhex(found.group(1).replace("\\x", "")).decode("latin-1")
    # Half of a pair, which JSON can hold, becomes bytes that no tokenizer has.
    return None if _UNKNOWN in text else text.encode("utf-8", "surrogatepass").decode("latin-1")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{value!r} is no log probability")
    return float(value)


def packed(tokens: list[Told]) -> str:
    """As short text, for a line of the ledger."""
    return base64.b64encode(zlib.compress(json.dumps(tokens).encode())).decode()


def unpacked(text: str | None) -> list[dict[str, Any]] | None:
    """What `packed` made, as a value of `schema.TOKENS`; None stays None."""
    if text is None:
        return None
    tokens = json.loads(zlib.decompress(base64.b64decode(text)))
    return [
        {**_plain(token, value), "top": [_plain(*one) for one in likely]}
        for token, value, likely in tokens
    ]


def _plain(token: Token, value: float) -> dict[str, Any]:
    """A value of `schema.TOKENS`, without the others."""
    is_id = isinstance(token, int)
    return {
        "token": token.encode("latin-1") if isinstance(token, str) else None,
        "token_id": token if is_id else None,
        "logprob": value,
    }
