"""A section of a store: soft targets of one teacher, one tokenizer, one codec with its options."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from raykd.errors import StoreError
from raykd.soft_targets.spec import CodecSpec
from raykd.store.piece_targets import list_columns

FORMAT: Final = 1
"""Of the files of a section; a reader refuses a newer one."""
SECTION_FILE: Final = "section.json"

_COMPARED: Final = ("teacher", "tokenizer", "codec", "stamp", "columns")


@dataclass(frozen=True)
class Section:
    """What decides the soft targets of a piece; picklable.

    Attributes:
        teacher: Identity of the teacher's weights and of how it computes.
        tokenizer: Identity of the tokenizer.
        spec: The codec; its `seed` is no part of a section.
    """

    teacher: str
    tokenizer: str
    spec: CodecSpec

    @property
    def name(self) -> str:
        """The directory: the codec, and a hash of all that decides the targets."""
        content = json.dumps(self._identity, sort_keys=True).encode()
        return f"{self.spec.codec}-{hashlib.blake2b(content, digest_size=8).hexdigest()}"

    @property
    def facts(self) -> dict[str, Any]:
        """What `section.json` says; plain values."""
        columns = {
            column.name: {"type": str(column.value_type), "width": column.width}
            for column in list_columns(self.spec)
        }
        return {"format": FORMAT, **self._identity, "columns": columns}

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher,
            "tokenizer": self.tokenizer,
            "codec": self.spec.facts,
            "stamp": f"{self.spec.stamp:08x}",
        }

    def differing(self, said: dict[str, Any]) -> list[str]:
        """Which facts of another section are not this one's.

        Args:
            said: What its `section.json` says.
        """
        expected = self.facts
        return [name for name in _COMPARED if said.get(name) != expected[name]]

    def to_bytes(self) -> bytes:
        """The content of `section.json`."""
        return (json.dumps(self.facts, indent=2) + "\n").encode()

    def check(self, found: bytes, where: str) -> None:
        """Refuse the content of a `section.json` that is not this section's.

        Args:
            found: The file's content.
            where: The file, for the message.

        Raises:
            StoreError: It is unreadable, of a newer format, or of another section; says of which.
        """
        said, expected = read_facts(found, where), self.facts
        differing = self.differing(said)
        if differing:
            lines = [
                f"  {name}: found {json.dumps(said.get(name))}, expected "
                f"{json.dumps(expected[name])}"
                for name in differing
            ]
            raise StoreError(
                f"{where}: this directory holds soft targets of another "
                f"{', '.join(differing)}, under this section's name:\n"
                + "\n".join(lines)
                + "\nA directory was copied or renamed: put it back, or choose another store"
            )


def read_facts(content: bytes, where: str) -> dict[str, Any]:
    """The facts in a `section.json`, of this format or an older one.

    Raises:
        StoreError: It is unreadable, or of a newer format.
    """
    try:
        said = json.loads(content)
        version = said["format"]
        if not isinstance(version, int):
            raise TypeError("its format is no whole number")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{where}: is no description of a section ({type(error).__name__}: {error}); restore "
            "it from a copy, or remove the section's directory and have the teacher score again"
        ) from None
    if version > FORMAT:
        raise StoreError(
            f"{where}: is of format {version}, written by a newer raykd; this one reads up to "
            f"format {FORMAT}: update raykd, or choose another store"
        )
    facts: dict[str, Any] = said
    return facts
