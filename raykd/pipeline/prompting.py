"""From the job's corpus to the prompts that its teacher is asked to complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raykd.config.job import Job
from raykd.data.corpus import read_documents
from raykd.data.documents import (
    BadRecord,
    BadRecords,
    Chat,
    Document,
    LabelledText,
    PromptCompletion,
    RunningText,
)
from raykd.generation.requests import Prompt, Request, requests


def requests_of(job: Job, bad_prompts: Path | None = None) -> list[Request]:
    """Everything that a job's teacher is asked to write.

    Args:
        job: With a `generation` section.
        bad_prompts: Where records are written that are no prompts, if the corpus says to skip them.

    Raises:
        CorpusError: The corpus cannot be read as the job says.
    """
    assert job.generation is not None
    if bad_prompts is not None:
        bad_prompts.unlink(missing_ok=True)
    bad = BadRecords.of(job.data.corpus, "data.corpus", bad_prompts)
    return list(requests(_prompts(job, bad), job.generation, job.seed))


def _prompts(job: Job, bad: BadRecords) -> Iterator[Prompt]:
    corpus, generation = job.data.corpus, job.generation
    assert generation is not None
    for number, document in enumerate(read_documents(corpus, bad)):
        group = None if corpus.columns.group is None else document.index
        try:
            yield prompt_of(document, number, group, as_chat=generation.as_chat)
        except BadRecord as reason:
            bad.report(document.place, str(reason), repr(document.content))


def prompt_of(document: Document, number: int, group: int | None, *, as_chat: bool) -> Prompt:
    """A document as a prompt: what it says itself after that is the gold completion.

    Args:
        document: Of the corpus.
        number: The prompt's.
        group: The corpus's number for prompts that belong together.
        as_chat: Plain text becomes the user's turn.

    Raises:
        BadRecord: A chat in which the user says nothing.
    """
    content = document.content
    if isinstance(content, Chat):
        turns = [(str(one["role"]), str(one["content"])) for one in content.messages]
        asked = [i for i, (role, _) in enumerate(turns) if role == "user"]
        if not asked:
            raise BadRecord("the user says nothing in it, so there is nothing to answer")
        after = turns[asked[-1] + 1 :]
        gold = after[0][1] if after and after[0][0] == "assistant" else None
        chat = [{"role": role, "content": said} for role, said in turns[: asked[-1] + 1]]
        return Prompt(number, chat, None, gold, group)
    assert not isinstance(content, LabelledText), "labels are for classifiers"
    text = content.text if isinstance(content, RunningText) else content.prompt
    gold = content.completion if isinstance(content, PromptCompletion) else None
    if as_chat:
        return Prompt(number, [{"role": "user", "content": text}], None, gold, group)
    return Prompt(number, None, text, gold, group)
