"""Speed and memory of a bare model: reading prompts and writing after them, at two batch sizes.

B prompts, P tokens of each, V vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch

from raykd.evaluation.inspection_data import BatchCost
from raykd.models.head import head_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW_TOKENS: Final = 16
LONGEST_PROMPT_TOKENS: Final = 128
FEWEST_READS, MOST_READS, READS_S = 3, 15, 1.0
"""Forward passes that are timed, more than the fewest only within so much time."""


def prompts_of(
    rows: Sequence[Sequence[int]], num_prompts: int, longest_tokens: int = LONGEST_PROMPT_TOKENS
) -> torch.Tensor:
    """Beginnings of rows as one tensor [B, P] without padding.

    P is the median row's length, at most `longest_tokens`; shorter rows are left out, and rows come
    again where there are too few.

    Args:
        rows: Token ids of each row, without padding; at least one row of two tokens.
        num_prompts: B.
        longest_tokens: Of P.
    """
    median = int(statistics.median_low([len(row) for row in rows]))
    length = max(1, min(longest_tokens, median))
    long_enough = [row[:length] for row in rows if len(row) >= length]
    return torch.tensor(
        [list(long_enough[i % len(long_enough)]) for i in range(num_prompts)], dtype=torch.int64
    )


def costs_of(model: PreTrainedModel, prompts_BP: torch.Tensor, vocab_size: int) -> list[BatchCost]:
    """Measure a model at batch 1 and at batch B.

    Args:
        model: In evaluation mode, on its device.
        prompts_BP: Token ids.
        vocab_size: Ids that may be written.
    """
    sizes = sorted({1, len(prompts_BP)})
    return [_cost(model, prompts_BP[:size], vocab_size) for size in sizes]


@torch.inference_mode()
def write_greedily(
    model: PreTrainedModel, prompts_BP: torch.Tensor, num_new: int, vocab_size: int
) -> torch.Tensor:
    """The likeliest token after each prompt, again and again; [B, num_new].

    Args:
        model: In evaluation mode.
        prompts_BP: On the model's device; none is padded.
        num_new: At least 1.
        vocab_size: Ids that may be written.
    """
    body = model.get_decoder()
    step_B1, cache, written = prompts_BP, None, []
    for _ in range(num_new):
        output = body(input_ids=step_B1, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = head_logits(model, output.last_hidden_state[:, -1], vocab_size)
        step_B1 = logits_BV.argmax(1, keepdim=True)
        written.append(step_B1)
    return torch.cat(written, 1)


def _cost(model: PreTrainedModel, prompts_BP: torch.Tensor, vocab_size: int) -> BatchCost:
    device = next(model.parameters()).device
    prompts = prompts_BP.to(device)
    num_new = _room(model, prompts.shape[1])
    write_greedily(model, prompts, 1, vocab_size)  # warms up
    read_s = median_seconds(device, lambda: write_greedily(model, prompts, 1, vocab_size))
    write_s = seconds_of(device, lambda: write_greedily(model, prompts, num_new, vocab_size))
    return BatchCost(
        batch=len(prompts),
        prompt_tokens=prompts.shape[1],
        new_tokens=num_new,
        read_tokens_per_s=prompts.numel() / read_s,
        written_tokens_per_s=len(prompts) * num_new / write_s,
        peak_bytes=peak_bytes_of(model, lambda: write_greedily(model, prompts, 2, vocab_size)),
    )


def _room(model: PreTrainedModel, prompt_tokens: int) -> int:
    """Tokens that can be written before the context ends."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return NEW_TOKENS if context is None else max(1, min(NEW_TOKENS, context - prompt_tokens))


def median_seconds(device: torch.device, act: Callable[[], object]) -> float:
    """How long `act` takes, done several times: a single one may have met a busy machine."""
    taken: list[float] = []
    while len(taken) < FEWEST_READS or (len(taken) < MOST_READS and sum(taken) < READS_S):
        taken.append(seconds_of(device, act))
    return statistics.median(taken)


def seconds_of(device: torch.device, act: Callable[[], object]) -> float:
    """How long `act` takes, what it starts on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started, 1e-9)


def peak_bytes_of(model: PreTrainedModel, act: Callable[[], object]) -> int:
    """The most that torch holds at once while `act` runs, weights included."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        act()
        return int(torch.cuda.max_memory_allocated(device))
    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in _held(model)}.values())
    return weights + _peak_beyond_weights(act)


def _held(model: PreTrainedModel) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _peak_beyond_weights(act: Callable[[], object]) -> int:
    """Every block that torch takes or gives back on the CPU, summed up over time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        act()
    events = [
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, num_bytes in sorted(events, key=lambda event: event[0]):
        held += num_bytes
        peak = max(peak, held)
    return peak
