"""What is sent for one prompt, and by which key its answer is known again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from raykd.config.endpoint import EndpointConfig
from raykd.config.sampling import SamplingConfig

CHAT: Final = "/chat/completions"
TEXT: Final = "/completions"
CHARACTERS_A_TOKEN: Final = 4
"""What providers themselves reckon with before they count."""
TOKENS_A_MESSAGE: Final = 8
"""Of a chat template, at most about."""


@dataclass(frozen=True)
class Request:
    """One prompt's request.

    Attributes:
        prompt: Its number in the corpus, for messages.
        path: Below the endpoint's URL.
        body: JSON.
        key: Of its answer: SHA-256 over endpoint, path, body, seed and sample.
        likely_tokens: Prompt and longest completion, for the pace.
        most_prompt_tokens: No tokenizer makes more of the prompt, for the cap: a token is at least
            a byte.
        max_new_tokens: Longest completion.
    """

    prompt: int
    path: str
    body: dict[str, Any]
    key: str
    likely_tokens: int
    most_prompt_tokens: int
    max_new_tokens: int


def make_request(
    row: dict[str, Any], model: str, endpoint: EndpointConfig, sampling: SamplingConfig
) -> Request:
    """The request for one row of `schema.PROMPTS`.

    Args:
        row: The row.
        model: The model's name at the endpoint.
        endpoint: Where, and what it understands.
        sampling: How to draw.
    """
    messages = row["messages"]
    body: dict[str, Any] = {
        **endpoint.extra_body,
        "model": model,
        **({"prompt": row["text"]} if messages is None else {"messages": messages}),
        **_drawing(row["seed"], endpoint, sampling),
    }
    path = TEXT if messages is None else CHAT
    body |= _told_of_tokens(endpoint, is_chat=messages is not None)
    if messages is None:
        # Its name there is always the old one.
        body["max_tokens"] = sampling.max_new_tokens
    else:
        body[endpoint.length_field] = sampling.max_new_tokens
    texts = [row["text"]] if messages is None else [one["content"] for one in messages]
    overhead = TOKENS_A_MESSAGE * (1 + len(texts))
    return Request(
        prompt=row["prompt"],
        path=path,
        body=body,
        key=_key(endpoint.base_url, path, body, row["seed"], row["sample"]),
        likely_tokens=sum(map(len, texts)) // CHARACTERS_A_TOKEN
        + overhead
        + sampling.max_new_tokens,
        most_prompt_tokens=sum(len(text.encode()) for text in texts) + overhead,
        max_new_tokens=sampling.max_new_tokens,
    )


def _told_of_tokens(endpoint: EndpointConfig, *, is_chat: bool) -> dict[str, Any]:
    """What is asked of log probabilities: in a text's request their number says that they are."""
    if not endpoint.tells_logprobs:
        return {}
    if not is_chat:
        return {"logprobs": endpoint.top_logprobs or 0}
    top = endpoint.top_logprobs
    return {"logprobs": True} if top is None else {"logprobs": True, "top_logprobs": top}


def _drawing(seed: int, endpoint: EndpointConfig, sampling: SamplingConfig) -> dict[str, Any]:
    """Only what differs from an endpoint's own defaults: some refuse what they do not know."""
    body: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if endpoint.send_seed and sampling.temperature > 0:
        body["seed"] = seed
    return body


def _key(base_url: str, path: str, body: dict[str, Any], seed: int, sample: int) -> str:
    told = json.dumps([base_url, path, body, seed, sample], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()
