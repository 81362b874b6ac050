"""Has completions written: a bounded number of requests at once, each answer kept as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raykd import schema
from raykd.generation.requests import Request, as_table, by_key
from raykd.generation.store import Completion, GenerationStore

Ask = Callable[[pa.Table], Awaitable[pa.Table]]
"""From `schema.PROMPTS` to `schema.COMPLETIONS`, row for row."""


@dataclass(frozen=True)
class Asker:
    """Whom to ask, and how much at once."""

    ask: Ask
    rows_a_request: int
    requests_in_flight: int


async def complete(
    wanted: Sequence[Request],
    store: GenerationStore,
    asker: Asker,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Have all requests that the store lacks completed, and kept there.

    Nothing new is asked after a failure; what was asked by then is waited for and kept.

    Args:
        wanted: Requests; equal keys are asked once.
        store: Where completions are kept.
        asker: Whom to ask.
        tell: Is told (completions kept, completions wanted) whenever one comes.

    Returns:
        Completions asked for; the others were kept before.

    Raises:
        RaykdError: What `ask` raised first.
    """
    distinct = by_key(wanted)
    kept = store.read(set(distinct))
    lacking = [one for key, one in distinct.items() if key not in kept]
    size = asker.rows_a_request
    left = iter([lacking[at : at + size] for at in range(0, len(lacking), size)])
    done = len(kept)
    failed: list[Exception] = []
    one_writes = asyncio.Lock()
    tell(done, len(distinct))

    async def work() -> None:
        nonlocal done
        for part in left:
            if failed:
                return
            try:
                answer = await asker.ask(as_table(part))
                schema.check_columns(answer, schema.COMPLETIONS, "what the teacher wrote")
                async with one_writes:
                    await asyncio.to_thread(store.write, part, answer)
            except Exception as error:
                failed.append(error)
                return
            done += len(part)
            tell(done, len(distinct))

    try:
        await asyncio.gather(*(work() for _ in range(asker.requests_in_flight)))
    finally:
        store.merge()
    if failed:
        raise failed[0]
    return len(lacking)


def completions(wanted: Sequence[Request], store: GenerationStore) -> list[Completion]:
    """The kept completion of every request."""
    found = store.read({one.key for one in wanted})
    return [found[one.key] for one in wanted]
