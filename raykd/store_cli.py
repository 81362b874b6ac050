"""`raykd store`: what a soft-target store holds, whether it is sound, what can go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from raykd.command import Debug, console_for_tables, errors, say

if TYPE_CHECKING:
    from raykd.store.sections import SectionSummary

app = typer.Typer(no_args_is_help=True, help="Look at, verify and prune a soft-target store.")

Location = Annotated[
    str, typer.Argument(metavar="LOCATION", help="The store: a path, or a URI (s3://, gs://).")
]
SectionName = Annotated[str | None, typer.Option(help="One section; default: all.")]

_DAY_S = 86400


@app.command("ls")
def list_sections(location: Location, debug: Debug = False) -> None:
    """List what a store holds: teacher, codec, pieces, tokens, bytes, age."""
    with errors(debug):
        from rich.table import Table

        from raykd.store.sections import sections

        console, found = console_for_tables(), sections(location)
        if not found:
            console.print(f"{location}: holds no soft targets", soft_wrap=True, highlight=False)
            return
        table = Table("section", "teacher", "codec", "last written")
        for name in ("shards", "pieces", "tokens", "MB"):
            table.add_column(name, justify="right")
        for each in found:
            table.add_row(*_cells(each))
        console.print(table)
        for each in found:
            if each.problem is not None:
                say(console, f"fix this  {each.problem}")


def _cells(section: SectionSummary) -> list[str]:
    counts = [section.shards, section.pieces, section.tokens]
    return [
        section.name,
        section.teacher,
        section.codec if section.problem is None else "cannot be read, see below",
        "-" if section.written_s is None else _ago(time.time() - section.written_s),
        *(f"{count:,}" for count in counts),
        f"{section.num_bytes / 1e6:,.1f}",
    ]


def _ago(seconds: float) -> str:
    for name, size in (("day", _DAY_S), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


@app.command("verify")
def verify_store(
    location: Location,
    section: SectionName = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode all columns too; ten times slower.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Read every byte: sizes, checksums, keys. Ends with 1 where something is bad."""
    with errors(debug):
        from raykd.store.verify import verify

        found, console = verify(location, section, decode=decode), console_for_tables()
        if not found.shards and not found.faults:
            # Not `0 bad`: the place may be misspelt.
            say(console, f"{location}: holds no soft targets")
            raise typer.Exit(1)
        for fault in found.faults:
            say(console, f"bad  {fault.path}: {fault.what}")
        rate = found.num_bytes / 1e6 / max(found.seconds, 1e-9)
        say(
            console,
            f"{found.shards:,} shards in {found.sections:,} sections, "
            f"{found.num_bytes / 1e6:,.1f} MB in {found.seconds:.1f} s ({rate:,.0f} MB/s): "
            f"{len(found.faults):,} bad",
        )
        if found.faults:
            if any(fault.shard is not None for fault in found.faults):
                say(console, f"`raykd store prune --bad {location}` removes the bad shards")
            raise typer.Exit(1)


@app.command("prune")
def prune_store(
    location: Location,
    older_than_days: Annotated[
        float | None,
        typer.Option(min=0, help="Remove sections that were last written so many days ago."),
    ] = None,
    section: Annotated[
        str | None,
        typer.Option(help="Remove this section; with another option: look at this one only."),
    ] = None,
    bad: Annotated[bool, typer.Option("--bad", help="Remove shards that `verify` calls bad.")] = (
        False
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Remove unpublished leftovers older than an hour, and what the options name."""
    with errors(debug):
        from raykd.store.prune import prune

        console = console_for_tables()
        older_than_s = None if older_than_days is None else older_than_days * _DAY_S
        removed = prune(
            location, older_than_s=older_than_s, section=section, bad=bad, dry_run=dry_run
        )
        word = "would remove" if dry_run else "removed"
        for each in removed:
            say(console, f"{word}  {each.kind} {each.path}: {each.why}")
        total = sum(each.num_bytes for each in removed) / 1e6
        say(console, f"{word} {len(removed):,} things, {total:,.1f} MB")
