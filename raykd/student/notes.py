"""Notes to the person: lines in `logs/notes.txt`, from any process of a run."""

from __future__ import annotations

from pathlib import Path

NOTES = "notes.txt"


def add_note(logs: Path, text: str) -> None:
    """Append a line; readers see it whole or not at all."""
    line = " ".join(text.splitlines()) + "\n"
    with (logs / NOTES).open("a") as out:
        out.write(line)


class NotesTail:
    """Reads what was noted since it was made.

    Args:
        logs: The run's directory of logs; the file may not exist yet.
    """

    def __init__(self, logs: Path) -> None:
        self._path = logs / NOTES
        self._offset = self._path.stat().st_size if self._path.is_file() else 0

    def poll(self) -> list[str]:
        """Whole lines that are new."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            gained = file.read()
        whole = gained[: gained.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()
