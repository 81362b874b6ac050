"""From a corpus's prompts to what a teacher is asked, each with a key and a seed of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raykd import schema
from raykd.config.generation import GenerationConfig

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the corpus: a chat that ends with the user's turn, or a plain text."""

    number: int
    """In the corpus."""
    messages: Messages | None
    text: str | None
    gold: str | None = None
    """What the corpus itself says to it."""
    group: int | None = None
    """The corpus's own number for prompts that belong together; None where it has none."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be written."""

    key: str
    """Of the content of the prompt, the seed and the sample: equal requests are asked once."""
    prompt: int
    group: int
    """The same for prompts that are held out together: those of one content, where the corpus has
    no groups of its own."""
    sample: int
    seed: int
    """Its draws come from here, and nobody else's."""
    messages: Messages | None
    text: str | None
    read: Messages | None
    """Of a chat, the turns that the student reads: without those that only the teacher is told."""
    gold: str | None

    @property
    def asked(self) -> str:
        """What a person reads as the prompt: of a chat the last turn."""
        return str(self.text) if self.messages is None else self.messages[-1]["content"]


def requests(
    prompts: Iterable[Prompt], config: GenerationConfig, job_seed: int
) -> Iterator[Request]:
    """Every sample of every prompt.

    Args:
        prompts: Of the corpus.
        config: The job's section.
        job_seed: The job's `seed`, where the section has none of its own.
    """
    seed = job_seed if config.seed is None else config.seed
    first: dict[bytes, int] = {}
    for prompt in prompts:
        messages, read = _told(prompt, config, seed)
        content = json.dumps([messages, prompt.text], ensure_ascii=False).encode()
        same = first.setdefault(hashlib.sha256(content).digest(), prompt.number)
        group = same if prompt.group is None else prompt.group
        for sample in range(config.num_samples):
            # The likeliest token is no draw: it is the same for every seed.
            drawn = [0, 0] if config.sampling.temperature == 0 else [seed, sample]
            digest = hashlib.sha256(json.dumps(drawn).encode() + content).digest()
            yield Request(
                key=digest[:16].hex(),
                prompt=prompt.number,
                group=group,
                sample=sample,
                seed=int.from_bytes(digest[16:24], "little") >> 1,
                messages=messages,
                text=prompt.text,
                read=read,
                gold=prompt.gold,
            )


def _told(
    prompt: Prompt, config: GenerationConfig, seed: int
) -> tuple[Messages | None, Messages | None]:
    """A chat as the teacher gets it, the job's own turns before it, and as the student does."""
    if prompt.messages is None:
        return None, None
    has_system = prompt.messages[0]["role"] == "system"
    own = prompt.messages[:1] if has_system else []
    turns = prompt.messages[len(own) :]
    added = [] if has_system else _system_turn(prompt.messages, config, seed)
    examples = [
        {"role": role, "content": content}
        for one in config.examples
        for role, content in (("user", one.user), ("assistant", one.assistant))
    ]
    read = [
        *own,
        *(added if config.keep_system_prompt else []),
        *(examples if config.keep_examples else []),
        *turns,
    ]
    return [*own, *added, *examples, *turns], read


def _system_turn(messages: Messages, config: GenerationConfig, seed: int) -> Messages:
    """The job's system turn; of several, one drawn for this chat."""
    given = config.system_prompt
    if given is None:
        return []
    choices = [given] if isinstance(given, str) else given
    content = json.dumps([seed, messages], ensure_ascii=False).encode()
    draw = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    return [{"role": "system", "content": choices[draw % len(choices)]}]


def by_key(wanted: Iterable[Request]) -> dict[str, Request]:
    """Requests without those that equal an earlier one."""
    found: dict[str, Request] = {}
    for one in wanted:
        found.setdefault(one.key, one)
    return found


def as_table(wanted: list[Request]) -> pa.Table:
    """What is asked: columns of `schema.PROMPTS`."""
    rows: list[dict[str, Any]] = [
        {name: getattr(one, name) for name in schema.PROMPTS.names} for one in wanted
    ]
    return pa.Table.from_pylist(rows, schema=schema.PROMPTS)
