"""`teacher.endpoint`: a teacher behind an OpenAI-compatible API, what it may cost, how fast."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from raykd.config.section import Section

VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
"""Small letters are left out on purpose: no known key looks like such a name."""
LOCAL_ENDINGS: Final = (".localhost", ".local", ".internal", ".lan", ".svc")
RAYKDS_OWN: Final = (
    "model",
    "messages",
    "prompt",
    "stream",
    "n",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "best_of",
)
"""Keys of a request that other fields of a job decide."""


class PriceConfig(Section):
    """What tokens cost, in US dollars a million."""

    input: float = Field(ge=0, description="Of prompts.")
    output: float = Field(ge=0, description="Of completions, reasoning included.")


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint: a hosted model, or a vLLM or SGLang server of one's own."""

    base_url: str = Field(
        description="Up to the version, such as `https://api.openai.com/v1` or "
        "`http://localhost:8000/v1`."
    )
    api_key_env: str | None = Field(
        None,
        description="Name of the environment variable with the key, set where Ray is started; "
        "none for a server that asks for no key. The key itself is never written anywhere.",
    )
    terms_accepted: bool = Field(
        False,
        description="You have read the provider's terms, and they allow training a model on its "
        "outputs; required for a host that is not local or private.",
    )
    max_concurrent_requests: int = Field(8, ge=1, description="Requests on their way at once.")
    requests_per_minute: float | None = Field(
        None, gt=0, description="The provider's limit; none is no limit."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="The provider's limit, prompts and completions; none is no limit."
    )
    price_per_million_tokens: PriceConfig | None = Field(
        None, description="What the provider charges; without it nothing is said of cost."
    )
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        description="The run stops before a request that could take its cost above this; what is "
        "paid is kept.",
    )
    logprobs: bool = Field(
        False,
        description="Ask for the log probability of each token, for `mean_logprob`; not every "
        "endpoint gives it.",
    )
    top_logprobs: int | None = Field(
        None,
        ge=1,
        description="Ask for this many likeliest tokens in the place of each one written, and "
        "their log probabilities: with `method: logits` and `generation` they are the soft "
        "targets. OpenAI gives at most 20; a server of one's own, what it was started with.",
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="What the endpoint calls the longest completion; newer models of OpenAI know "
        "only the second.",
    )
    send_seed: bool = Field(
        True,
        description="Send each prompt's seed where the temperature is above 0; false for an "
        "endpoint that refuses it.",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Sent along in every request, such as `{reasoning_effort: low}`.",
    )

    @property
    def host(self) -> str:
        """Where it is."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether its address is of this machine, a private network or a cluster."""
        return is_local(self.host)

    @property
    def tells_logprobs(self) -> bool:
        """Whether the log probability of each token is asked for."""
        return self.logprobs or self.top_logprobs is not None

    @field_validator("extra_body")
    @classmethod
    def _not_what_others_say(cls, body: dict[str, Any]) -> dict[str, Any]:
        if taken := [key for key in RAYKDS_OWN if key in body]:
            raise ValueError(
                f"{', '.join(taken)}: raykd sends this itself, from the job's other fields; "
                "remove it here"
            )
        return body

    @model_validator(mode="after")
    def _without_the_key(self) -> Self:
        # A rule of the section, not of the field: a field's complaint repeats the value it found,
        # which may be the key.
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "base_url holds more than an address; give the key by `api_key_env`, and the URL "
                "without user, password and query"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url is a URL of http:// or https://, up to its version: /v1")
        if self.api_key_env is not None and not VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                "api_key_env is the NAME of an environment variable in capital letters, such as "
                "OPENAI_API_KEY; never the key itself"
            )
        return self

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        if not self.is_local and not self.terms_accepted:
            raise ValueError(
                f"{self.host} is a hosted model, and providers' terms often forbid to train a "
                "model that competes with theirs on its outputs. raykd cannot judge that for you: "
                "read the terms, and say `terms_accepted: true` where they allow it"
            )
        if not self.is_local and self.base_url.startswith("http://") and self.api_key_env:
            raise ValueError(
                f"base_url: http:// to {self.host} would send the key in clear; use https://"
            )
        if self.max_cost_usd is not None and self.price_per_million_tokens is None:
            raise ValueError(
                "max_cost_usd needs `price_per_million_tokens: {input: ..., output: ...}`: an "
                "endpoint counts tokens and does not say what they cost"
            )
        return self


def is_local(host: str) -> bool:
    """Whether a host's name or address is of this machine, a private network or a cluster."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return "." not in name or name.endswith(LOCAL_ENDINGS)
    return address.is_private or address.is_loopback or address.is_link_local
