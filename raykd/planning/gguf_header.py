"""What a GGUF file says of its model: its metadata and the names of its tensors, no weights read.

The `gguf` package makes an array of every string in the tokenizer's tables, which takes seconds;
here they are skipped. Source: GGUF version 2 and 3, ggml/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from raykd.errors import ModelError

_NUMBERS: Final = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | dict(
    zip((10, 11, 12), ("Q", "q", "d"), strict=True)
)
_STRING, _ARRAY = 8, 9
_MOST_LENGTH: Final = 2**31
"""Of a string or an array: a broken length must not ask for all memory."""


@dataclass(frozen=True)
class GgufHeader:
    """Metadata by key, an array as its length; and the tensors' names."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]


def read_header(file: Path, field: str) -> GgufHeader:
    """Read the head of a GGUF file.

    Args:
        file: The file.
        field: Its name in the job, for messages.

    Raises:
        ModelError: There is no such file, or it is not GGUF.
    """
    try:
        with file.open("rb") as stream:
            return _header(stream)
    except FileNotFoundError:
        raise ModelError(f"{field}: no file {file}") from None
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{field}: {file} is not a GGUF file that can be read: {error}") from None


def _header(stream: BinaryIO) -> GgufHeader:
    magic, version = _unpack(stream, "4sI")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}")
    num_tensors, num_keys = _unpack(stream, "QQ")
    metadata = {}
    for _ in range(num_keys):
        key = _string(stream)
        (kind,) = _unpack(stream, "I")
        metadata[key] = _value(stream, kind)
    return GgufHeader(metadata, tuple(_tensor(stream) for _ in range(num_tensors)))


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind in _NUMBERS:
        (number,) = _unpack(stream, _NUMBERS[kind])
        return number
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        raise ValueError(f"a value of unknown type {kind}")
    inner, length = _unpack(stream, "IQ")
    _require_length(length)
    if inner in _NUMBERS:
        stream.seek(length * struct.calcsize(f"<{_NUMBERS[inner]}"), 1)
    else:
        skip: Callable[[], Any] = (
            _skip_string(stream) if inner == _STRING else _nested(stream, inner)
        )
        for _ in range(length):
            skip()
    return length


def _skip_string(stream: BinaryIO) -> Callable[[], Any]:
    read = stream.read
    # Tens of thousands of them: no more calls than it takes.
    return lambda: read(int.from_bytes(read(8), "little"))


def _nested(stream: BinaryIO, kind: int) -> Callable[[], Any]:
    return lambda: _value(stream, kind)


def _tensor(stream: BinaryIO) -> str:
    name = _string(stream)
    (num_dimensions,) = _unpack(stream, "I")
    stream.seek(8 * num_dimensions + 4 + 8, 1)
    return name


def _string(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "Q")
    _require_length(length)
    return stream.read(length).decode("utf-8")


def _require_length(length: int) -> None:
    if length > _MOST_LENGTH:
        raise ValueError(f"a length of {length}")


def _unpack(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    form = f"<{form}"
    return struct.unpack(form, stream.read(struct.calcsize(form)))
