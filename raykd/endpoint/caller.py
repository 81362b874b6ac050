"""One request to an endpoint, once: its text, or what its failure means.

The key is in this object and in the headers it sends, and nowhere else: whatever an endpoint says
is looked through for it before it goes into a message.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2
import openai

from raykd.endpoint.request import Request
from raykd.errors import GenerationError, RaykdError, TeacherError

NO_KEY: Final = "none"
"""What is sent where no key is asked for; the SDK would otherwise look for OPENAI_API_KEY."""
HIDDEN: Final = "[key]"
SHOWN_CHARACTERS: Final = 300
LONGEST_PAUSE_S: Final = 600.0
NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
OUT_OF_MONEY: Final = ("insufficient_quota", "billing_hard_limit_reached")
FILTERED: Final = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


class Again(Exception):
    """The request failed in a way that may pass.

    Attributes:
        why: In words.
        after_s: How long the endpoint asks to wait; None where it does not say.
        charged: Whether the endpoint may charge it: it was sent, and its answer was lost.
    """

    def __init__(self, why: str, after_s: float | None = None, *, charged: bool = False) -> None:
        super().__init__(why)
        self.why, self.after_s, self.charged = why, after_s, charged


class RefusedPrompt(Exception):
    """The endpoint's filter let nothing be generated for a prompt."""


class Caller:
    """The connection to an endpoint."""

    def __init__(
        self, base_url: str, key: str | None, key_name: str | None, timeout_s: float
    ) -> None:
        """Connect to nothing yet.

        Args:
            base_url: Up to the version.
            key: The key itself; None where none is asked for.
            key_name: The variable that it came from, for messages.
            timeout_s: Longest that a request may take.
        """
        self._base_url, self._key, self._key_name = base_url, key, key_name
        self._timeout_s = timeout_s
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or NO_KEY, timeout=timeout_s, max_retries=0
        )

    async def send(self, request: Request) -> str:
        """The text of the answer.

        Args:
            request: What to send.

        Raises:
            Again: It may be tried again.
            RefusedPrompt: The prompt was filtered.
            TeacherError: The endpoint cannot be used as the job says.
            GenerationError: It cannot serve this prompt.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response: httpx2.Response = await self._client.post(
                    request.path, cast_to=httpx2.Response, body=request.body
                )
                return response.text
        except TimeoutError:
            raise self._slow() from None
        except openai.APITimeoutError as error:
            if isinstance(error.__cause__, NEVER_SENT):
                raise self._unreached(error) from None
            raise self._slow() from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, NEVER_SENT):
                raise self._unreached(error) from None
            raise Again(f"the connection was cut ({_cause(error)})", charged=True) from None
        except openai.APIStatusError as error:
            raise self._meaning(error, request) from None
        except httpx2.HTTPError as error:
            raise Again(f"the answer broke off ({type(error).__name__})", charged=True) from None

    async def models(self) -> list[str] | None:
        """Names of the models there; None where the endpoint answers and lists none.

        Raises:
            TeacherError: It cannot be reached, or refuses the key.
        """
        try:
            response: httpx2.Response = await self._client.get("/models", cast_to=httpx2.Response)
            return [str(one["id"]) for one in response.json()["data"]]
        except openai.APIConnectionError as error:
            raise TeacherError(f"teacher.endpoint.base_url: {self._unreached(error)}") from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._refused_key(self.hidden(error.response.text)) from None
            return None
        except (ValueError, KeyError, TypeError):
            return None

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.close()

    def _slow(self) -> Again:
        return Again(f"no answer within {self._timeout_s:g} s", charged=True)

    def _unreached(self, error: Exception) -> Again:
        return Again(f"{self._base_url} cannot be reached ({_cause(error)})")

    def _meaning(self, error: Any, request: Request) -> Exception:
        """Of an answer that is an error: to try again, to give up, or a prompt that is refused."""
        status, code = error.status_code, str(error.code)
        said = f"{status}: {self.hidden(error.response.text.strip())}"
        if code in OUT_OF_MONEY:
            return TeacherError(f"teacher.endpoint: nothing is left to spend there ({said})")
        if status in (408, 409, 425, 429) or status >= 500:
            return self._later(said, error.response.headers)
        if code in FILTERED or any(word in error.response.text for word in FILTERED):
            return RefusedPrompt()
        return self._final(status, said, request)

    def _later(self, said: str, headers: Any) -> Exception:
        after_s = pause_s(headers)
        if after_s is not None and after_s > LONGEST_PAUSE_S:
            return TeacherError(
                f"teacher.endpoint: asks to come back in {after_s / 60:,.0f} minutes ({said}); "
                "what is paid is kept: go on with --resume then"
            )
        return Again(said, after_s)

    def _final(self, status: int, said: str, request: Request) -> RaykdError:
        if status in (401, 403):
            return self._refused_key(said)
        if status == 404:
            return TeacherError(
                f"teacher: {self._base_url}{request.path} with model {request.body['model']!r} is "
                f"not there ({said}); check teacher.endpoint.base_url and teacher.model"
            )
        return GenerationError(
            f"prompt {request.prompt}: the endpoint refuses the request ({said}). Where it is too "
            "long for the model, shorten it or lower generation.sampling.max_new_tokens; where a "
            "key is not known there, see teacher.endpoint.length_field, send_seed, logprobs, "
            "top_logprobs (most endpoints give at most 20) and generation.sampling"
        )

    def _refused_key(self, said: str) -> TeacherError:
        given = f"the key in {self._key_name}" if self._key_name else "a request without a key"
        return TeacherError(
            f"teacher.endpoint.api_key_env: {self._base_url} refuses {given} ({said})"
        )

    def hidden(self, text: str) -> str:
        """What an endpoint said, short and without the key."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        return " ".join(text.split())[:SHOWN_CHARACTERS]


def pause_s(headers: Any, now_s: float | None = None) -> float | None:
    """How long an endpoint asks to wait, in seconds; None where it does not say.

    Args:
        headers: Of its answer.
        now_s: Unix time, against which a date is compared; None is now.
    """
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        # Seconds or a date; a server that says neither has said nothing.
        with suppress(ValueError):
            return max(0.0, float(said) * unit_s)
        with suppress(ValueError):
            at = parsedate_to_datetime(said).timestamp()
            return max(0.0, at - (time.time() if now_s is None else now_s))
    return None


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return type(cause or error).__name__
