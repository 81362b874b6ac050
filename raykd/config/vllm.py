"""`teacher.vllm`: what vLLM has to know beside what every engine does."""

from __future__ import annotations

from pydantic import Field

from raykd.config.section import Section


class VllmConfig(Section):
    """How vLLM shares out memory, and how much of each distribution it hands over."""

    max_model_len: int | None = Field(
        None,
        ge=2,
        description="Longest text in tokens, what is generated included; the cache of keys and "
        "values must hold one of that length. Default: the model's own context.",
    )
    gpu_memory_utilization: float = Field(
        0.8,
        gt=0,
        lt=1,
        description="`device: gpu`: share of each GPU that weights and cache take. vLLM does not "
        "count the logits of scoring: they need what is left.",
    )
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description="Size of the cache of keys and values, GiB a shard. Default: what "
        "`gpu_memory_utilization` leaves it; 1 with `device: cpu`.",
    )
    full_vocabulary: bool = Field(
        False,
        description="Read every log probability instead of the likeliest, for every codec but "
        "`hidden` at any temperature. vLLM hands them over number by number: for small "
        "vocabularies.",
    )
