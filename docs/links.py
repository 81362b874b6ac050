"""Checks that the links between the repository's Markdown files resolve, headings included."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from generate import slug

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("*.md", "docs/*.md", "cluster/**/*.md", "jobs/**/*.md", "benchmarks/**/*.md")

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """Every Markdown file that is checked."""
    return sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)})


def broken_links(document: Path) -> Iterator[str]:
    """What is wrong with each link of a document that leads nowhere."""
    for match in _LINK.finditer(_without_code(document)):
        link = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading"


def anchors(document: Path) -> set[str]:
    """The anchors of a Markdown file's headings."""
    return {slug(title) for title in _HEADING.findall(_without_code(document))}


def _without_code(document: Path) -> str:
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def main() -> int:
    """Print each broken link; 1 if there is one."""
    broken = [
        f"{one.relative_to(ROOT)}: {what}" for one in documents() for what in broken_links(one)
    ]
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
