"""The bytes that each id of a tokenizer stands for, and the ids that given bytes may be.

Text cannot tell tokens apart: one may be half a character, and several may look alike.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from raykd.errors import ModelError

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """A vocabulary by bytes.

    Attributes:
        of_id: Bytes of each id below the vocabulary's width; None where no text has it: special
            tokens, and rows of the embedding beyond the tokenizer's ids.
        ids: The ids that bytes may be, the likelier first; the texts of special tokens are there.
        unwritten: Ids that no text has, and then the rarest.
    """

    of_id: tuple[bytes | None, ...]
    ids: dict[bytes, tuple[int, ...]]
    unwritten: tuple[int, ...]


def token_bytes(tokenizer: Any, vocab_size: int) -> TokenBytes:
    """Read a tokenizer's vocabulary.

    Args:
        tokenizer: A fast one, of byte-level BPE or with SentencePiece's byte tokens.
        vocab_size: Width of the logits.

    Raises:
        ModelError: Its tokens do not say which bytes they are.
    """
    as_bytes = _reader(tokenizer)
    added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids) | {
        int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    of_id: list[bytes | None] = [None] * vocab_size
    ids: dict[bytes, list[int]] = defaultdict(list)
    byte_tokens: list[tuple[bytes, int]] = []
    for token, i in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        if i >= vocab_size:
            continue
        content = added[i].encode() if i in added else as_bytes(token)
        if i not in special:
            of_id[i] = content
        if _BYTE.fullmatch(token) and i not in added:
            # Where a character has a token of its own, its byte is hardly ever written.
            byte_tokens.append((content, i))
        else:
            ids[content].append(i)
    for content, i in byte_tokens:
        ids[content].append(i)
    return TokenBytes(
        tuple(of_id),
        {content: tuple(found) for content, found in ids.items()},
        _unwritten(of_id, _spoken(tokenizer)),
    )


def _spoken(tokenizer: Any) -> set[int]:
    """Special tokens that a model may write: those that end a text, or stand in its template."""
    template = str(tokenizer.chat_template or "")
    named = {
        int(i) for i, token in tokenizer.added_tokens_decoder.items() if str(token) in template
    }
    return named | {tokenizer.eos_token_id}


def _unwritten(of_id: list[bytes | None], spoken: set[int]) -> tuple[int, ...]:
    """Ids that no text has, then the rarest: those that were merged last, of the highest ids."""
    downwards = range(len(of_id) - 1, -1, -1)
    never = [i for i in downwards if of_id[i] is None and i not in spoken]
    return (*never, *(i for i in downwards if of_id[i] is not None))


def _reader(tokenizer: Any) -> Callable[[str], bytes]:
    """From a token of the vocabulary to its bytes."""
    if not tokenizer.is_fast:
        raise _unreadable(tokenizer, "it is not a fast one")
    machine = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {str(one["type"]) for one in _parts(machine.get("decoder"))}
    if "ByteLevel" in kinds:
        return _byte_level
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return _sentence_piece
    raise _unreadable(tokenizer, f"its decoder is {', '.join(sorted(kinds)) or 'none'}")


def _parts(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _unreadable(tokenizer: Any, why: str) -> ModelError:
    return ModelError(
        f"teacher.endpoint.top_logprobs: which bytes the tokens of {tokenizer.name_or_path!r} are "
        f"cannot be told ({why}); take a student with a byte-level or SentencePiece tokenizer, or "
        "learn the text with `method: sequence`"
    )


def _byte_level(token: str) -> bytes:
    if not all(character in _BYTE_OF for character in token):
        return token.encode()  # was added as it stands
    return bytes(_BYTE_OF[character] for character in token)


def _byte_alphabet() -> dict[str, int]:
    """Of byte-level BPE: printable bytes as they are, all others from U+0100 on.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: the
        released `bytes_to_unicode`.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shifted = {chr(256 + n): byte for n, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_BYTE_OF: Final = _byte_alphabet()


def _sentence_piece(token: str) -> bytes:
    if found := _BYTE.fullmatch(token):
        return bytes.fromhex(found.group(1))
    return token.replace(_SPACE, " ").encode()
