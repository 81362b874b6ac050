"""Tasks in which the teacher writes: what is kept already, whom to ask for the rest."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa

from raykd.config.job import Job
from raykd.generation.coordinator import Asker, complete
from raykd.generation.requests import Request, by_key
from raykd.generation.store import GenerationStore
from raykd.models.load import load_config, load_tokenizer
from raykd.models.prompts import check_fits, context_tokens, prompt_ids
from raykd.pipeline import plan
from raykd.pipeline.behind_endpoint import saying_what_is_left
from raykd.pipeline.models import Models
from raykd.pipeline.prompting import requests_of
from raykd.pipeline.run_dir import RunDirectory
from raykd.teacher.client import TeacherClient

DIRECTORY: Final = ".generations"
"""Of a storage path's kept completions."""
MOST_ROWS_A_REQUEST: Final = 64


@dataclass(frozen=True)
class Found:
    """What of a job's completions is kept already."""

    lacking: int
    of: int
    longest_prompt_tokens: int | None = None
    """None where nothing is lacking, or nobody here can count them."""


def count_lacking(job: Job, run: RunDirectory, models: Models) -> Found:
    """Look up what is kept; one task on the cluster, before any teacher starts.

    Raises:
        GenerationError: A prompt that is to be asked cannot be rendered, or is too long.
    """
    wanted = by_key(requests_of(job, run.logs / "bad_prompts.jsonl"))
    kept = store_of(job, run, models).read(set(wanted))
    lacking = [one for key, one in wanted.items() if key not in kept]
    longest = None
    if lacking and job.teacher.endpoint is None:
        longest = _check_prompts(job, models, lacking)
    return Found(len(lacking), len(wanted), longest)


def write(
    job: Job, run: RunDirectory, models: Models, client: TeacherClient | None, found: Found
) -> None:
    """Have the completions written that are not kept; one task on the cluster."""
    wanted = requests_of(job)
    store = store_of(job, run, models)

    async def work() -> None:
        async with asker(job, run, models, client, found.longest_prompt_tokens) as whom:
            await complete(wanted, store, whom, partial(_tell, run.generating))

    with saying_what_is_left(lambda: count_lacking(job, run, models)):
        asyncio.run(work())


@asynccontextmanager
async def asker(
    job: Job,
    run: RunDirectory,
    models: Models,
    client: TeacherClient | None,
    longest_prompt_tokens: int | None = None,
) -> AsyncIterator[Asker]:
    """Whom a job asks for text: the one place where engines differ."""
    assert job.generation is not None
    sampling = job.generation.sampling
    if job.teacher.endpoint is not None:
        from raykd.endpoint.asker import EndpointAsker

        folder = paid_folder(job, run, models)
        async with EndpointAsker(job.teacher, sampling, folder, job.name) as ask:
            # More than it lets through: while some are kept or wait to be tried again, others go.
            yield Asker(ask, ask.rows_a_request, 2 * job.teacher.endpoint.max_concurrent_requests)
        return
    assert client is not None, "a teacher that is no endpoint has been started"

    async def from_replicas(prompts: pa.Table) -> pa.Table:
        return await client.generate(prompts, sampling)

    # As many rows as one batch of the engine holds.
    longest = (longest_prompt_tokens or sampling.max_new_tokens) + sampling.max_new_tokens
    rows = min(MOST_ROWS_A_REQUEST, max(1, job.teacher.micro_batch_tokens // longest))
    yield Asker(from_replicas, rows, plan.requests_in_flight(job))


def _check_prompts(job: Job, models: Models, wanted: list[Request]) -> int:
    """See that every prompt can be rendered and finds room in the teacher's context.

    Returns:
        Tokens of the longest.
    """
    assert job.generation is not None
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    context = context_tokens(load_config(models.teacher, "teacher.model"))
    longest = 1
    for one in wanted:
        row = {"prompt": one.prompt, "messages": one.messages, "text": one.text}
        number = len(prompt_ids(tokenizer, row))
        check_fits(row, number, job.generation.sampling.max_new_tokens, context)
        longest = max(longest, number)
    return longest


def _tell(file: Path, done: int, total: int) -> None:
    aside = file.with_suffix(".aside")
    aside.write_text(json.dumps([done, total]))
    aside.rename(file)


def store_of(job: Job, run: RunDirectory, models: Models) -> GenerationStore:
    """Where a job's completions are kept, for all runs that ask in the same way."""
    return GenerationStore(
        _directory(job, run, models), teacher_name(job, models), sampling_text(job)
    )


def _directory(job: Job, run: RunDirectory, models: Models) -> Path:
    """One for each teacher, template and way of drawing."""
    # An endpoint renders chats itself: another student may learn from what it wrote.
    template = None if job.teacher.endpoint is not None else models.tokenizer_identity
    whole = json.dumps([teacher_name(job, models), template, sampling_text(job)])
    name = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return run.root.parent / DIRECTORY / name


def paid_folder(job: Job, run: RunDirectory, models: Models) -> Path:
    """Where what an endpoint was paid for is kept."""
    return _directory(job, run, models) / "paid"


def teacher_name(job: Job, models: Models) -> str:
    """Who writes: what else would write otherwise."""
    teacher = job.teacher
    if teacher.endpoint is not None:
        return f"{teacher.engine}:{teacher.model}@{models.teacher_identity}"
    return f"{teacher.engine}:{teacher.model}@{models.teacher_identity}:{teacher.dtype}"


def sampling_text(job: Job) -> str:
    """How it draws, as JSON."""
    assert job.generation is not None
    return json.dumps(job.generation.sampling.model_dump(mode="json"), sort_keys=True)
