"""Text from a causal language model: batches padded on the left, one key-value cache, own draws.

A row's draws come from its own seed and the number of the token, so that they depend neither on its
neighbours nor on the replica; logits of other batches differ by rounding, and so does a draw that
falls on an edge.

B rows at work, T tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import GenerationError
from raykd.models.head import head_logits
from raykd.models.prompts import check_fits, context_tokens, prompt_ids, shown
from raykd.teacher.draw import draws, sample

Agree = Callable[[torch.Tensor], torch.Tensor]
"""Makes the first shard's tensor everyone's."""


@dataclass
class Writing:
    """A completion on its way."""

    row: dict[str, Any]
    """Of `schema.PROMPTS`."""
    ids: list[int]
    """Of the prompt."""
    new_ids: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0
    finish_reason: str = ""

    def as_completion(self, tokenizer: Any, stop: Sequence[str]) -> dict[str, Any]:
        """A row of `schema.COMPLETIONS`."""
        text = tokenizer.decode(self.new_ids, skip_special_tokens=True)
        places = [at for at in (text.find(one) for one in stop) if at >= 0]
        number = len(self.new_ids)
        return {
            "completion": text[: min(places)] if places else text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": len(self.ids),
            "completion_tokens": number,
            "mean_logprob": self.sum_logprob / number if number else None,
        }


class Generator:
    """Completes prompts with a model.

    Args:
        model: A causal language model in evaluation mode; on every shard where it is sharded.
        tokenizer: Its own.
        micro_batch_tokens: Tokens (padding and completions included) of rows at work together.
        agree: None where the model is whole.
    """

    def __init__(
        self, model: Any, tokenizer: Any, micro_batch_tokens: int, agree: Agree | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._micro_batch_tokens = micro_batch_tokens
        self._agree = agree
        self._device = next(model.parameters()).device
        self._context = context_tokens(model.config)
        self._ends = end_ids(model, tokenizer)

    @torch.inference_mode()
    def __call__(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table:
        """Completions of prompts, row for row; see `Engine.generate`."""
        rows = [Writing(row, prompt_ids(self._tokenizer, row)) for row in prompts.to_pylist()]
        for one in rows:
            check_fits(one.row, len(one.ids), sampling.max_new_tokens, self._context)
        for group in self._groups(rows, sampling.max_new_tokens):
            self._write(group, sampling)
        told = [one.as_completion(self._tokenizer, sampling.stop) for one in rows]
        return pa.Table.from_pylist(told, schema=schema.COMPLETIONS)

    def _groups(self, rows: list[Writing], max_new_tokens: int) -> list[list[Writing]]:
        """Rows of similar length together; a group's tokens, padding included, are bounded."""
        left = sorted(rows, key=lambda one: -len(one.ids))
        groups = []
        while left:
            longest = len(left[0].ids) + max_new_tokens
            size = max(1, self._micro_batch_tokens // longest)
            groups.append(left[:size])
            left = left[size:]
        return groups

    def _write(self, group: list[Writing], sampling: SamplingConfig) -> None:
        """Write one group's completions to their ends."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        longest = max(len(one.ids) for one in group)
        ids_BT = torch.zeros(len(group), longest, dtype=torch.int64)
        mask_BT = torch.zeros(len(group), longest, dtype=torch.int64)
        for b, one in enumerate(group):
            ids_BT[b, longest - len(one.ids) :] = torch.tensor(one.ids)
            mask_BT[b, longest - len(one.ids) :] = 1
        ids_BT, mask_BT = ids_BT.to(self._device), mask_BT.to(self._device)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        working = group
        while True:
            logits_BV = self._forward(ids_BT, mask_BT, positions_BT, cache)
            next_B, logprobs = self._draw(logits_BV, working, sampling)
            drawn = zip(working, next_B.tolist(), logprobs, strict=True)
            ends = [self._take(*one, sampling) for one in drawn]
            if all(ends):
                return
            ids_BT, positions_BT = next_B.unsqueeze(1), positions_BT[:, -1:] + 1
            if 2 * sum(ends) >= len(ends):
                # Half of the rows are done: the others go on in a smaller batch.
                keep = torch.tensor([b for b, end in enumerate(ends) if not end])
                working = [working[b] for b in keep.tolist()]
                keep = keep.to(self._device)
                cache.batch_select_indices(keep)
                ids_BT, positions_BT, mask_BT = ids_BT[keep], positions_BT[keep], mask_BT[keep]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)

    def _forward(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Logits [B, V] of each row's next token."""
        output = self._model.get_decoder()(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        )
        return head_logits(self._model, output.last_hidden_state[:, -1]).float()

    def _draw(
        self, logits_BV: torch.Tensor, working: list[Writing], sampling: SamplingConfig
    ) -> tuple[torch.Tensor, list[float]]:
        """Each row's next token, the same on all shards, and what the model makes of it."""
        logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
        bad_B = ~torch.isfinite(logprobs_BV.amax(dim=-1))
        if bad_B.any():
            row = working[int(bad_B.nonzero()[0])].row
            raise GenerationError(
                f"prompt {row['prompt']} ({shown(row)}): the teacher's logits are no numbers; its "
                "weights are broken, or its dtype is too narrow"
            )
        if sampling.temperature == 0:
            next_B = logits_BV.argmax(dim=-1)
        else:
            seeds = [one.row["seed"] for one in working]
            draws_B = draws(seeds, [len(one.new_ids) for one in working])
            next_B = sample(logits_BV, draws_B.to(self._device), sampling)
        if self._agree is not None:
            next_B = self._agree(next_B)
        return next_B, logprobs_BV.gather(1, next_B.unsqueeze(1)).squeeze(1).tolist()

    def _take(self, one: Writing, token: int, logprob: float, sampling: SamplingConfig) -> bool:
        """Add a token to a completion; whether it is at its end."""
        if one.finish_reason:
            return True
        if token in self._ends:
            one.finish_reason = "stop"
            return True
        one.new_ids.append(token)
        one.sum_logprob += logprob
        if sampling.stop and self._stopped(one, sampling.stop):
            one.finish_reason = "stop"
        elif len(one.new_ids) == sampling.max_new_tokens:
            one.finish_reason = "length"
        return bool(one.finish_reason)

    def _stopped(self, one: Writing, stop: Sequence[str]) -> bool:
        """Whether a stop string stands at the end; a token is at least one byte of it."""
        longest = max(len(text.encode()) for text in stop)
        tail = self._tokenizer.decode(one.new_ids[-longest - 4 :], skip_special_tokens=True)
        return any(text in tail for text in stop)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a completion: what the generation configuration and the tokenizer say."""
    config = getattr(model, "generation_config", None)
    given = getattr(config, "eos_token_id", None)
    found = [given] if isinstance(given, int) else list(given or [])
    return frozenset(i for i in (*found, tokenizer.eos_token_id) if i is not None)
