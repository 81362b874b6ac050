from __future__ import annotations

from pathlib import Path

from raykd.student.notes import NOTES, NotesTail, add_note


def test_only_what_is_noted_from_now_on(tmp_path: Path) -> None:
    add_note(tmp_path, "old")
    tail = NotesTail(tmp_path)
    assert tail.poll() == []
    add_note(tmp_path, "one")
    add_note(tmp_path, "two\nlines")
    assert tail.poll() == ["one", "two lines"]
    assert tail.poll() == []


def test_there_is_no_file_yet(tmp_path: Path) -> None:
    tail = NotesTail(tmp_path)
    assert tail.poll() == []
    add_note(tmp_path, "first")
    assert tail.poll() == ["first"]


def test_half_a_line_waits(tmp_path: Path) -> None:
    tail = NotesTail(tmp_path)
    (tmp_path / NOTES).write_text("one\nhal")
    assert tail.poll() == ["one"]
    with (tmp_path / NOTES).open("a") as out:
        out.write("f\n")
    assert tail.poll() == ["half"]
