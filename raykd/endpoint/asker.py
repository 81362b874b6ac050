"""Asks an endpoint for completions: at its pace, within the cap, and for nothing twice."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt
from tenacity.retry import retry_if_exception_type
from tenacity.wait import wait_random_exponential

from raykd.config.endpoint import EndpointConfig
from raykd.config.sampling import SamplingConfig
from raykd.config.teacher import TeacherConfig
from raykd.endpoint.answer import MALFORMED, REFUSED, Answer, NoAnswer, read_answer
from raykd.endpoint.caller import Again, Caller, RefusedPrompt
from raykd.endpoint.ledger import Ledger, Totals
from raykd.endpoint.logprobs import unpacked
from raykd.endpoint.pace import Pace
from raykd.endpoint.request import Request, make_request
from raykd.endpoint.spend import Spend
from raykd.errors import JobError, RaykdError, TeacherError
from raykd.schema import COMPLETIONS, LOGPROBS, PROMPTS, check_columns

MALFORMED_TRIES: Final = 2
"""An endpoint that answers with anything but JSON charges it perhaps, and mostly does it again."""
PAUSE_S: Final = 1.0
LONGEST_BACKOFF_S: Final = 30.0


def key_of(endpoint: EndpointConfig) -> str | None:
    """The key, from this process's environment; None where the endpoint asks for none.

    Raises:
        JobError: The variable is not set here.
    """
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise JobError(
            f"teacher.endpoint.api_key_env: {endpoint.api_key_env} is not set in the process that "
            "asks the endpoint; set it where Ray is started on each node (docs/api-teachers.md)"
        )
    return key


class EndpointAsker:
    """Prompts in, completions out; made and used within one event loop."""

    rows_a_request: Final = 1
    """Prompts to hand over at once: each is paid for by itself."""

    def __init__(
        self, teacher: TeacherConfig, sampling: SamplingConfig, folder: Path, run: str
    ) -> None:
        """Read what was paid for before.

        Args:
            teacher: The job's; `engine: openai`.
            sampling: How to draw.
            folder: Where paid answers are kept, for all runs that ask in the same way.
            run: Whose spending is counted against the cap.

        Raises:
            JobError: The key is not here.
            StorageError: The folder cannot be written.
        """
        endpoint = teacher.endpoint
        assert endpoint is not None, "engine openai has an endpoint"
        self._teacher, self._endpoint, self._sampling = teacher, endpoint, sampling
        self._caller = Caller(
            endpoint.base_url, key_of(endpoint), endpoint.api_key_env, teacher.request_timeout_s
        )
        self._ledger = Ledger(folder, run)
        self._spend = Spend(
            endpoint.price_per_million_tokens,
            endpoint.max_cost_usd,
            self._ledger.totals.cost_usd,
        )
        self._requests = Pace(endpoint.requests_per_minute, sleep=self._sleep)
        self._tokens = Pace(endpoint.tokens_per_minute, sleep=self._sleep)
        self._gate = asyncio.Semaphore(endpoint.max_concurrent_requests)
        self._asked: dict[str, asyncio.Task[Answer]] = {}
        self._over: RaykdError | None = None
        self._tells_tokens = False
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for what is on its way: it is paid for, and kept. Nothing more is sent."""
        self._end(TeacherError("teacher.endpoint: stopped before this prompt was asked"))
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await self._caller.close()
        self._ledger.__exit__()

    @property
    def totals(self) -> Totals:
        """What this run has paid for, this time and before."""
        return self._ledger.totals

    async def __call__(self, prompts: pa.Table) -> pa.Table:
        """Completions of prompts, row for row.

        Args:
            prompts: Columns of `schema.PROMPTS`.

        Returns:
            Columns of `schema.COMPLETIONS`.

        Raises:
            SpendCapError: The cap is reached.
            TeacherError: The endpoint does not answer, or not as the job says.
            GenerationError: It cannot serve a prompt.
        """
        check_columns(prompts, PROMPTS, "endpoint")
        found = await asyncio.gather(
            *map(self._answer, prompts.to_pylist()), return_exceptions=True
        )
        answers = []
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        rows = [{**vars(one), LOGPROBS: unpacked(one.logprobs)} for one in answers]
        return pa.Table.from_pylist(rows, COMPLETIONS)

    async def _answer(self, row: dict[str, Any]) -> Answer:
        request = make_request(row, self._teacher.model, self._endpoint, self._sampling)
        if (kept := self._ledger.find(request.key)) is not None:
            return kept
        task = self._asked.get(request.key)
        if task is None:
            task = asyncio.create_task(self._paid(request))
            self._asked[request.key] = task
        # Who waits may be cancelled; what is on its way is paid for and is kept all the same.
        return await asyncio.shield(task)

    async def _paid(self, request: Request) -> Answer:
        """Ask, again and again where that may help, and keep the answer."""
        try:
            return await self._retrying(request)
        except RaykdError as error:
            # One failure ends the run: nothing more is sent.
            self._end(error)
            raise
        finally:
            del self._asked[request.key]

    def _end(self, reason: RaykdError) -> None:
        self._over = self._over or reason
        self._ended.set()

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless nothing more is to be sent."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        if self._over is not None:
            raise self._over

    async def _retrying(self, request: Request) -> Answer:
        for _ in range(MALFORMED_TRIES):
            with suppress(NoAnswer):
                return await self._tried(request)
        return await self._keep(request, Answer(None, MALFORMED), 0.0)

    async def _tried(self, request: Request) -> Answer:
        """Try until there is an answer, or what has the form of one."""
        tries = self._teacher.max_retries + 1
        retrying = AsyncRetrying(
            stop=stop_after_attempt(tries),
            wait=self._pause,
            retry=retry_if_exception_type(Again),
            reraise=True,
            sleep=self._sleep,
        )
        try:
            return await retrying(self._attempt, request)
        except Again as error:
            raise TeacherError(
                f"prompt {request.prompt}: {self._endpoint.host} gave no answer in {tries} tries "
                f"(the last: {error.why}). What is paid is kept: go on with --resume, or raise "
                "teacher.max_retries or teacher.request_timeout_s"
            ) from None

    async def _attempt(self, request: Request) -> Answer:
        async with self._gate, self._spend.reserved(request):
            await self._requests.take()
            await self._tokens.take(request.likely_tokens)
            if self._over is not None:
                raise self._over
            try:
                text = await self._caller.send(request)
                answer = read_answer(text, with_logprobs=self._endpoint.top_logprobs is not None)
            except RefusedPrompt:
                return await self._keep(request, Answer(None, REFUSED), 0.0)
            except Again as error:
                if error.charged:
                    await self._lose(request, error.why)
                raise
            except NoAnswer as error:
                await self._lose(request, self._caller.hidden(str(error)))
                raise
            kept = await self._settle(request, answer)
            self._require_logprobs(request, kept)
            return kept

    def _require_logprobs(self, request: Request, answer: Answer) -> None:
        """End at the first answers without log probabilities: none of the others would have them.

        Raises:
            TeacherError: They were asked for, and no answer so far has them.
        """
        self._tells_tokens |= answer.logprobs is not None
        top = self._endpoint.top_logprobs
        if top is not None and answer.completion and not self._tells_tokens:
            raise TeacherError(
                f"teacher.endpoint.top_logprobs: {top} were asked for, and {self._endpoint.host} "
                f"answered prompt {request.prompt} without them. Choose a model or endpoint that "
                "gives them; or remove the key, and learn the text with `method: sequence`"
            )

    async def _settle(self, request: Request, answer: Answer) -> Answer:
        """Count an answer by what the endpoint says it used; by the most where it does not say."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if prompt is None or completion is None:
            return await self._keep(request, answer, self._spend.most_usd(request))
        self._tokens.correct(request.likely_tokens - prompt - completion)
        return await self._keep(request, answer, self._spend.cost_usd(prompt, completion))

    async def _keep(self, request: Request, answer: Answer, cost_usd: float) -> Answer:
        self._spend.add(cost_usd)
        await self._ledger.add(request.key, answer, cost_usd)
        return answer

    async def _lose(self, request: Request, why: str) -> None:
        cost_usd = self._spend.most_usd(request)
        self._spend.add(cost_usd)
        await self._ledger.lose(request.key, why, cost_usd)

    def _pause(self, state: RetryCallState) -> float:
        """As long as the endpoint asks, for all requests; else longer from try to try."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.after_s if isinstance(error, Again) else None
        backoff_s = wait_random_exponential(multiplier=PAUSE_S, max=LONGEST_BACKOFF_S)(state)
        if asked is None:
            return backoff_s
        self._requests.hold(asked)
        return asked
