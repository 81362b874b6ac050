"""Mails for specialist-tickets.yaml: synthetic ones to learn from, real ones to be measured by.

    python jobs/recipes/data/inbox.py runs/inbox                     # synthetic.jsonl
    python jobs/recipes/data/inbox.py runs/inbox --real package/data # and real.jsonl

Synthetic mails are put together from the sentences in inbox.json, which were made up for this
purpose and stand in no mailbox: they may go to whatever teacher. `--real` reads folders of raw
mails (`spam-*`, `easy-ham-*`, `hard-ham-*`); what it writes is for measuring on this machine only.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import json
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

NUM_SYNTHETIC = 3000
CHARACTERS = 600
"""Of a mail's text; classifiers read its beginning."""

JUNK, WANTED = "junk", "wanted"

SENTENCES = Path(__file__).with_suffix(".json")


def synthetic(seed: int) -> Iterator[dict[str, str]]:
    """Mails of both kinds, as many of each."""
    draw = random.Random(seed)
    known = json.loads(SENTENCES.read_text())
    for number in range(NUM_SYNTHETIC):
        label = (JUNK, WANTED)[number % 2]
        subject = draw.choice(known[label]["subjects"])
        sentences = draw.sample(known[label]["sentences"], draw.randint(1, 6))
        lines = [filled(line, known["slots"], draw) for line in (subject, *sentences)]
        if label == JUNK and draw.random() < 0.2:
            lines = [line.upper() for line in lines]
        yield {"mail": "\n".join(lines), "kind": label}


def filled(line: str, slots: dict[str, list[str]], draw: random.Random) -> str:
    """The line, with something in each of its slots."""
    return re.sub(r"\{(\w+)\}", lambda found: draw.choice(slots[found[1]]), line)


def real(folder: Path, seed: int) -> Iterator[dict[str, str]]:
    """Raw mails below a folder, subject and text without markup, each text once, shuffled."""
    files = sorted(folder.glob("spam-*/*.txt")) + sorted(folder.glob("*-ham-*/*.txt"))
    if not files:
        raise SystemExit(f"{folder}: no mails in spam-*/*.txt and *-ham-*/*.txt")
    random.Random(seed).shuffle(files)
    seen = set()
    for file in files:
        text = beginning(file.read_bytes())
        if text and text not in seen:
            seen.add(text)
            label = JUNK if file.parent.name.startswith("spam") else WANTED
            yield {"mail": text, "kind": label}


def beginning(raw: bytes) -> str:
    """Subject and the first characters of a mail's text."""
    # The first line of an mbox is no header.
    raw = raw.split(b"\n", 1)[1] if raw.startswith(b"From ") else raw
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    part = next((p for p in message.walk() if p.get_content_maintype() == "text"), message)
    body = part.get_payload(decode=True) or b""
    text = body.decode("latin-1")
    if part.get_content_subtype() == "html" or "<html" in text.lower():
        reader = Words()
        reader.feed(text)
        text = " ".join(reader.found)
    lines = (str(message.get("Subject", "")), text)
    return "\n".join(" ".join(line.split()) for line in lines).strip()[:CHARACTERS]


class Words(HTMLParser):
    """What of a page is read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Enter a tag."""
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Leave a tag."""
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        """Take text in."""
        if not self._hidden:
            self.found.append(data)


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="Where the files go.")
    parser.add_argument("--real", type=Path, help="Folder of real mails.")
    parser.add_argument("--seed", type=int, default=17)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    sets = {"synthetic": synthetic(given.seed)}
    if given.real is not None:
        sets["real"] = real(given.real, given.seed)
    for name, mails in sets.items():
        file = given.directory / f"{name}.jsonl"
        lines = [json.dumps(mail) + "\n" for mail in mails]
        file.write_text("".join(lines))
        print(f"{file}: {len(lines):,} mails")


if __name__ == "__main__":
    main()
