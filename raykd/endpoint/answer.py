"""From the text of an endpoint's answer to a completion, its end and what was counted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from raykd.endpoint.logprobs import packed, read_logprobs

STOP, LENGTH, REFUSED, MALFORMED = "stop", "length", "refused", "malformed"
ENDS: Final = {
    "stop": STOP,
    "eos": STOP,
    "end_turn": STOP,
    "length": LENGTH,
    "max_tokens": LENGTH,
    "content_filter": REFUSED,
}
"""What endpoints say, to what `schema.COMPLETIONS` says; anything else is no text to learn from."""


@dataclass(frozen=True)
class Answer:
    """A row of `schema.COMPLETIONS`; `logprobs` as `logprobs.packed` made it."""

    completion: str | None
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    mean_logprob: float | None = None
    logprobs: str | None = None


class NoAnswer(Exception):
    """The text is not an answer; says what is wrong with it."""


def read_answer(text: str, *, with_logprobs: bool = False) -> Answer:
    """Read the body of a successful answer.

    A model's reasoning that comes in a field of its own is put before the completion as
    `<think>...</think>`, where models that have no such field write it.

    Args:
        text: As it came.
        with_logprobs: Keep what is said of each token, where it is.

    Raises:
        NoAnswer: It is not JSON, or not of the form that OpenAI's API has.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise NoAnswer(f"not JSON ({error}), beginning with {text[:80]!r}") from None
    choice = _choice(tree)
    message = choice.get("message")
    prompt_tokens, completion_tokens = usage(tree)
    tokens = read_logprobs(choice.get("logprobs")) if with_logprobs else None
    content = choice.get("text") if message is None else _content(message)
    if content is not None and not isinstance(content, str):
        raise NoAnswer(f"the completion is {type(content).__name__}, not text")
    return Answer(
        completion=content,
        finish_reason=_end(choice, content),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        mean_logprob=_mean_logprob(choice.get("logprobs")),
        logprobs=None if tokens is None else packed(tokens),
    )


def usage(tree: Any) -> tuple[int | None, int | None]:
    """Tokens of prompt and completion, as the endpoint counted; None where it does not say."""
    counted = tree.get("usage") if isinstance(tree, dict) else None
    if not isinstance(counted, dict):
        return None, None
    found = (counted.get("prompt_tokens"), counted.get("completion_tokens"))
    prompt, completion = (
        n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in found
    )
    return prompt, completion


def _choice(tree: Any) -> dict[str, Any]:
    choices = tree.get("choices") if isinstance(tree, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict) or not ("message" in first or "text" in first):
        raise NoAnswer(f"no `choices` with a message or text in {json.dumps(tree)[:120]}")
    if "message" in first and not isinstance(first["message"], dict):
        raise NoAnswer("`message` is not an object")
    return first


def _content(message: dict[str, Any]) -> Any:
    content = message.get("content")
    # DeepSeek, SGLang and older vLLM say the first, newer vLLM and OpenRouter the second.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(reasoning, str) or not isinstance(content, str | None):
        return content
    return f"<think>\n{reasoning}\n</think>\n\n{content or ''}"


def _end(choice: dict[str, Any], content: str | None) -> str:
    message = choice.get("message") or {}
    if message.get("refusal"):
        return REFUSED
    said = choice.get("finish_reason")
    if said is None:
        return STOP if content is not None else MALFORMED
    # A call of a tool, say, is not what was asked for.
    end = ENDS.get(said, MALFORMED) if isinstance(said, str) else MALFORMED
    return MALFORMED if content is None and end in (STOP, LENGTH) else end


def _mean_logprob(told: Any) -> float | None:
    """Of a chat's or a text's log probabilities; None where there are none, or not for all."""
    if not isinstance(told, dict):
        return None
    if isinstance(chat := told.get("content"), list):
        values = [one.get("logprob") if isinstance(one, dict) else None for one in chat]
    else:
        found = told.get("token_logprobs")
        values = found if isinstance(found, list) else []
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None
