"""`generation`: text that the teacher writes, which of it is kept, and what of that is learned."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from raykd.config.filters import FilterConfig
from raykd.config.sampling import SamplingConfig
from raykd.config.scorer import ScorerConfig
from raykd.config.section import Section


class ExampleConfig(Section):
    """A question and its answer, shown to the teacher before it is asked."""

    user: str = Field(description="What the user says.")
    assistant: str = Field(description="What the assistant should say to it.")


class GenerationConfig(Section):
    """The teacher writes completions of the corpus's prompts, and the student learns from those."""

    sampling: SamplingConfig = Field(
        default_factory=SamplingConfig, description="How the teacher draws."
    )
    num_samples: int = Field(1, ge=1, description="Completions of each prompt.")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Where draws come from; default: the job's `seed`."
    )
    as_chat: bool = Field(
        False,
        description="Prompts of columns `text` or `prompt` become the user's turn of a chat, "
        "rendered by the chat template; otherwise the teacher continues them as they are.",
    )
    system_prompt: str | list[str] | None = Field(
        None,
        description="Chats only: the system's turn before each prompt that has none. Of a list "
        "each prompt gets one, drawn by the seed.",
    )
    keep_system_prompt: bool = Field(
        True,
        description="The student's rows carry `system_prompt` too; false teaches it to answer so "
        "without being told.",
    )
    examples: list[ExampleConfig] = Field(
        default_factory=list,
        description="Chats only: turns put before each prompt, after the system's, that show the "
        "teacher how to answer.",
    )
    keep_examples: bool = Field(
        False,
        description="The student's rows carry `examples` too; otherwise it learns to answer so "
        "without them.",
    )
    reasoning: Literal["keep", "mask", "drop"] = Field(
        "keep",
        description="What comes before `</think>`: `keep` learns it, `mask` leaves it in the text "
        "and learns only the answer, `drop` removes it.",
    )
    unfinished: Literal["drop", "keep"] = Field(
        "drop",
        description="Completions cut off at `sampling.max_new_tokens`. Kept, they teach to end "
        "there, unless `data.append_eos` is false.",
    )
    filters: list[FilterConfig] = Field(
        default_factory=list,
        description="What a completion must pass, in this order; each judges what passed those "
        "before it.",
    )
    keep_best: int | None = Field(
        None,
        ge=1,
        description="Of each prompt's samples that passed all filters, keep this many: those that "
        "`scorer` puts first, or without one those to which the teacher gives the highest mean log "
        "probability. None keeps all.",
    )
    scorer: ScorerConfig | None = Field(
        None, description="`keep_best`: a reward model that judges completions."
    )

    @field_validator("system_prompt")
    @classmethod
    def _some_system_prompt(cls, given: str | list[str] | None) -> str | list[str] | None:
        if given is not None and (not given or not all(given)):
            raise ValueError("a system prompt is empty; write one, or remove the key")
        return given

    @model_validator(mode="after")
    def _samples_suffice(self) -> Self:
        if any(one.name == "agreement" for one in self.filters) and self.num_samples < 2:
            raise ValueError(
                "num_samples: 1 agrees with itself; `agreement` needs at least 2, better 4"
            )
        if self.keep_best is not None and self.keep_best >= self.num_samples:
            raise ValueError(
                f"keep_best: {self.keep_best} of num_samples ({self.num_samples}) leaves nothing "
                "to choose; raise `num_samples` or remove `keep_best`"
            )
        if self.scorer is not None and self.keep_best is None:
            raise ValueError(
                "scorer: judges for `keep_best`, which is not given; say how many of each prompt's "
                "samples to keep, or remove the scorer"
            )
        if self.num_samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"num_samples: {self.num_samples} samples at `sampling.temperature: 0` are all the "
                "same; raise the temperature, for instance to 0.7"
            )
        if self.system_prompt is None and not self.keep_system_prompt:
            raise ValueError(
                "keep_system_prompt: false without a `system_prompt` changes nothing; remove it"
            )
        if self.keep_examples and not self.examples:
            raise ValueError("keep_examples: without `examples` it changes nothing; remove it")
        return self

    @property
    def needs_gold(self) -> bool:
        """Whether a filter compares with the corpus's own completions."""
        return any(one.name in ("exact_match", "math_verify") for one in self.filters)
