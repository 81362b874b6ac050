"""Text that the teacher writes before anything is learned: how much, how long, what it costs.

Source: Pope et al., "Efficiently Scaling Transformer Inference", arXiv 2211.05102, section 2: each
token that is written reads all weights and the keys and values so far once, for a whole batch.
"""

from __future__ import annotations

from typing import Final

from raykd.config.endpoint import EndpointConfig
from raykd.config.generation import GenerationConfig
from raykd.config.job import Job
from raykd.planning.accelerators import Accelerator
from raykd.planning.plan_data import Writing
from raykd.planning.shape import ModelShape
from raykd.planning.zero_bytes import WIDTH_BYTES

MOST_ROWS: Final = 64
"""Prompts of a request, which a replica works on together; one of `pipeline/writing.py`."""


def prompts(job: Job, told: int | None) -> tuple[int | None, str]:
    """Prompts of the corpus, and where their number is from.

    Args:
        job: The job.
        told: What the person says.
    """
    if told is not None:
        return told, "--prompts"
    most = job.data.corpus.max_documents
    return (
        most,
        "unknown: give --prompts N" if most is None else "at most data.corpus.max_documents",
    )


def cache_token_bytes(model: ModelShape, width: int, shards: int) -> int:
    """Bytes of one token's keys and values on the shard that holds most of them."""
    heads = -(-model.num_kv_heads // shards)
    return 2 * width * model.num_layers * heads * model.head_size


def rows_together(job: Job, generation: GenerationConfig) -> int:
    """Completions that a replica writes at once, prompt and completion as long as a row."""
    longest = max(job.data.sequence_length_tokens, generation.sampling.max_new_tokens + 1)
    return min(MOST_ROWS, max(1, job.teacher.micro_batch_tokens // longest))


def best_write_rate(job: Job, model: ModelShape, gpu: Accelerator | None) -> float | None:
    """Tokens a second of one replica that no memory of this GPU lets it exceed; None for CPUs.

    Args:
        job: The job, with `generation`.
        model: The teacher.
        gpu: That each shard lies on; None where unknown.
    """
    if job.teacher.device == "cpu" or gpu is None or job.generation is None:
        return None
    shards, width = job.teacher.tensor_parallel, WIDTH_BYTES[job.teacher.dtype]
    rows = rows_together(job, job.generation)
    longest = max(job.data.sequence_length_tokens, job.generation.sampling.max_new_tokens + 1)
    read = width * model.shard_parameters(shards)
    # On average half of what is written is there; the prompt may be short.
    read += rows * longest // 2 * cache_token_bytes(model, width, shards)
    return rows * gpu.memory_bytes_per_s / read


def writing(
    job: Job, told: int | None, tokens_per_s: float | None, replicas: int, source: str
) -> Writing | None:
    """What is to be written; None where nothing is.

    Args:
        job: The job.
        told: Prompts, where the person says how many.
        tokens_per_s: Of all replicas together; None where unknown.
        replicas: That write.
        source: Where the rate is from.
    """
    generation = job.generation
    if generation is None:
        return None
    count, count_source = prompts(job, told)
    completions = None if count is None else count * generation.num_samples
    longest = generation.sampling.max_new_tokens
    most_tokens = None if completions is None else completions * longest
    endpoint = job.teacher.endpoint
    if endpoint is not None:
        least, at_length, dollars = _of_endpoint(endpoint, completions, most_tokens)
        return Writing(
            completions=completions,
            count_source=count_source,
            max_new_tokens=longest,
            most_tokens=most_tokens,
            tokens_per_s=None,
            replicas=0,
            source="the endpoint's",
            hours=None,
            least_hours=least,
            hours_at_length=at_length,
            most_dollars=dollars,
            cap_dollars=endpoint.max_cost_usd,
        )
    known = most_tokens is not None and tokens_per_s is not None
    return Writing(
        completions=completions,
        count_source=count_source,
        max_new_tokens=longest,
        most_tokens=most_tokens,
        tokens_per_s=tokens_per_s,
        replicas=replicas,
        source=source,
        hours=(most_tokens or 0) / (tokens_per_s or 1.0) / 3600 if known else None,
    )


def _of_endpoint(
    endpoint: EndpointConfig, completions: int | None, most_tokens: int | None
) -> tuple[float | None, float | None, float | None]:
    """Hours that its limits ask for at least, those at full length, dollars at full length."""
    if completions is None or most_tokens is None:
        return None, None, None
    limits = (endpoint.requests_per_minute, endpoint.tokens_per_minute)
    least, at_length = (
        None if limit is None else amount / limit / 60
        for amount, limit in zip((completions, most_tokens), limits, strict=True)
    )
    price = endpoint.price_per_million_tokens
    return least, at_length, None if price is None else most_tokens * price.output / 1e6
