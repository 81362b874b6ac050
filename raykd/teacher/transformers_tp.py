"""The `transformers` engine: one shard of a tensor-parallel causal language model."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.sampling import SamplingConfig
from raykd.errors import SoftTargetError
from raykd.models.batch import Batch, collate, flat
from raykd.models.head import check_head, head_logits, hidden_states, save_head
from raykd.models.heap import keep_freed_memory
from raykd.models.load import ModelSource, load_model, load_tokenizer, torch_dtype
from raykd.models.mixture import mixture_logprobs
from raykd.models.states import StateTaker
from raykd.soft_targets.codec import Encoded, TokenError, encode, to_columns, token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.generate import Generator
from raykd.teacher.represent import encode_rows, gathered, state_columns, taker_for


class TransformersEngine:
    """A shard. The head's logits exist for `head_chunk_tokens` positions at a time."""

    def __init__(self, spec: EngineSpec, place: ShardPlace) -> None:
        torch.set_num_threads(spec.threads)
        if not spec.use_gpu:
            keep_freed_memory()
        self._spec = spec
        self._rank = place.rank
        self._device = torch.device("cuda", 0) if spec.use_gpu else torch.device("cpu")
        self._num_shards = place.world_size
        self._generator: Generator | None = None
        self._takers: dict[int, StateTaker] = {}
        self._parameters, self._bytes = 0, 0
        if place.world_size > 1:
            _join_group(place, spec.use_gpu)
        self._model = self._load(spec.source, "teacher.model")
        self._others = [
            self._load(one.source, f"teacher.mixed_in.{i}.model")
            for i, one in enumerate(spec.mixed_in)
        ]
        self._of_slices = [self._load(one.source, one.field) for one in spec.of_slices]
        shares = [one.weight for one in spec.mixed_in]
        self._weights = [1.0 - sum(shares), *shares]

    def _load(self, source: ModelSource, field: str) -> Any:
        arguments: dict[str, Any] = {}
        if self._num_shards > 1:
            from transformers.distributed.configuration_utils import DistributedConfig

            arguments["distributed_config"] = DistributedConfig(
                tp_size=self._num_shards, tp_plan="auto"
            )
        model: Any = load_model(source, self._spec.dtype, field, **arguments)
        model.requires_grad_(False).eval()
        parameters = sum(p.numel() for p in model.parameters())
        self._parameters += parameters
        self._bytes += parameters * torch_dtype(self._spec.dtype).itemsize
        model = model.to(self._device) if self._num_shards == 1 else model
        check_head(model, field.removesuffix(".model"))
        return model

    def describe(self) -> dict[str, object]:
        """Size of the whole model, or of all that it holds (DTensors count in full)."""
        return {
            "parameters": self._parameters,
            "bytes": self._bytes,
            "device": torch.cuda.get_device_name(0) if self._spec.use_gpu else "cpu",
        }

    @torch.inference_mode()
    def write_head(self, file: Path) -> None:
        """Write the head's weights and what follows them; see `Engine.write_head`."""
        save_head(self._model, file, write=self._rank == 0)

    def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table | None:
        """Completions of prompts; see `Engine.generate`."""
        if self._generator is None:
            tokenizer = load_tokenizer(self._spec.source, "teacher.model")
            self._generator = Generator(
                self._model,
                tokenizer,
                self._spec.micro_batch_tokens,
                _of_the_first_shard if self._num_shards > 1 else None,
            )
        completions = self._generator(prompts, sampling)
        return completions if self._rank == 0 else None

    @torch.inference_mode()
    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Soft targets of rows; see `Engine.score`."""
        return self._score(self._model, rows, spec)

    @torch.inference_mode()
    def score_slices(self, rows: pa.Table, spec: CodecSpec, which: int) -> pa.Table | None:
        """Soft targets of rows from a model of slices; see `ScoresSlices`."""
        return self._score(self._of_slices[which - 1], rows, spec)

    def _score(self, model: Any, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        start = time.perf_counter()
        encoded: list[Encoded | None] = [None] * rows.num_rows
        for group in self._groups(rows):
            chosen = rows.take(group)
            batch = collate(chosen).to(self._device)
            hidden_BTD = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
            scored = self._score_group(model, chosen, group, batch, hidden_BTD, spec)
            for row, one in zip(group, scored, strict=True):
                encoded[row] = one
        if self._rank != 0:
            return None
        columns = to_columns([one for one in encoded if one is not None], spec)
        return pa.table({**columns, "teacher_s": _seconds(rows, start)})

    @torch.inference_mode()
    def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table | None:
        """Inner states of rows; see `Engine.represent`."""
        start = time.perf_counter()
        targets: list[Encoded | None] = [None] * rows.num_rows
        inner: list[Encoded | None] = [None] * rows.num_rows
        for group in self._groups(rows):
            chosen = rows.take(group)
            batch = collate(chosen).to(self._device)
            with self._taker(states).taking() as taken:
                hidden_BTD = hidden_states(self._model, batch.input_ids_BT, batch.position_ids_BT)
            # Every shard takes part in gathering; only the first needs what comes out.
            whole = gathered(taken, states)
            if codec is not None:
                scored = self._score_group(self._model, chosen, group, batch, hidden_BTD, codec)
                for row, one in zip(group, scored, strict=True):
                    targets[row] = one
            if self._rank == 0:
                for row, one in zip(group, encode_rows(whole, chosen, group, states), strict=True):
                    inner[row] = one
        if self._rank != 0:
            return None
        columns: dict[str, Any] = {}
        if codec is not None:
            columns |= to_columns([one for one in targets if one is not None], codec)
        columns |= state_columns([one for one in inner if one is not None], states)
        return pa.table({**columns, "teacher_s": _seconds(rows, start)})

    def _groups(self, rows: pa.Table) -> list[np.ndarray[Any, Any]]:
        lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
        return micro_batches(lengths, self._spec.micro_batch_tokens)

    def _taker(self, states: CodecSpec) -> StateTaker:
        """Hooks are set once; a job asks for the same states all the time."""
        if states.stamp not in self._takers:
            self._takers[states.stamp] = taker_for(self._model, states)
        return self._takers[states.stamp]

    def _score_group(
        self,
        model: Any,
        chosen: pa.Table,
        group: np.ndarray[Any, Any],
        batch: Batch,
        hidden_BTD: torch.Tensor,
        spec: CodecSpec,
    ) -> list[Encoded | None]:
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        others_MD = [
            hidden_states(other, batch.input_ids_BT, batch.position_ids_BT)
            .flatten(0, 1)
            .index_select(0, batch.keep_M)
            for other in self._others
        ]
        kept = _kept_tokens(batch, chosen.num_rows)
        keys_M = self._keys(chosen, kept, spec)
        chunks = []
        for at in range(0, max(1, len(hidden_MD)), self._spec.head_chunk_tokens):
            piece = slice(at, at + self._spec.head_chunk_tokens)
            source = hidden_MD[piece]
            if spec.source == "logits":
                # Every shard takes part in the head; only the first needs what comes out.
                source = head_logits(model, source, spec.vocab_size)
                if self._others:
                    more = [
                        head_logits(other, hidden[piece], spec.vocab_size)
                        for other, hidden in zip(self._others, others_MD, strict=True)
                    ]
                    source = mixture_logprobs([source, *more], self._weights)
            if self._rank == 0:
                try:
                    keys_T = None if keys_M is None else keys_M[piece]
                    one = encode(source, batch.label_ids_M[piece], keys_T, spec)
                except TokenError as error:
                    raise _named(error, batch, group, at + error.token) from None
                chunks.append(one.cpu())
        if self._rank != 0:
            return [None] * chosen.num_rows
        return list(Encoded.concatenate(chunks).split(kept))

    def _keys(self, rows: pa.Table, kept: list[int], spec: CodecSpec) -> torch.Tensor | None:
        """Where draws come from; other codecs need none."""
        if spec.codec != "sampled":
            return None
        ids, offsets = flat(rows, "input_ids")
        texts = [ids[a:b] for a, b in itertools.pairwise(offsets)]
        return token_keys(texts, kept, spec.seed).to(self._device)


def _of_the_first_shard(tensor: torch.Tensor) -> torch.Tensor:
    """Draws are made from logits that may differ by a rounding: one shard's are everyone's."""
    torch.distributed.broadcast(tensor, src=0)
    return tensor


def _seconds(rows: pa.Table, start: float) -> pa.Array:
    """Each row's share of the time since `start`, by its tokens."""
    lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
    share = lengths / max(1, lengths.sum())
    return pa.array(((time.perf_counter() - start) * share).astype(np.float32))


def _kept_tokens(batch: Batch, num_rows: int) -> list[int]:
    """Tokens learned from in each row."""
    row_M = batch.keep_M.cpu().numpy() // batch.input_ids_BT.shape[1]
    counts: list[int] = np.bincount(row_M, minlength=num_rows).tolist()
    return counts


def _named(
    error: TokenError, batch: Batch, group: np.ndarray[Any, Any], at: int
) -> SoftTargetError:
    """The same complaint with the row of the request, the token in it and the text before."""
    row, token = divmod(int(batch.keep_M[at]), batch.input_ids_BT.shape[1])
    ids = batch.input_ids_BT[row, : token + 1].tolist()
    return SoftTargetError(
        f"row {int(group[row])} of the request, token {token}: {error.complaint}; its text ends "
        f"with token ids {ids[-8:]}"
    )


def micro_batches(lengths: np.ndarray[Any, Any], most_tokens: int) -> list[np.ndarray[Any, Any]]:
    """Group rows of similar length so that rows x longest stays within `most_tokens`.

    A row longer than that goes alone.
    """
    order = np.argsort(-lengths, kind="stable")
    groups: list[np.ndarray[Any, Any]] = []
    at = 0
    while at < len(order):
        size = max(1, most_tokens // max(1, int(lengths[order[at]])))
        groups.append(order[at : at + size])
        at += size
    return groups


def _join_group(place: ShardPlace, use_gpu: bool) -> None:
    """Form the shards' process group; transformers finds it and makes its mesh from it."""
    # Each actor sees just its own GPU, so the local rank is 0 everywhere.
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK="0",
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    torch.distributed.init_process_group(
        backend="nccl" if use_gpu else "gloo", rank=place.rank, world_size=place.world_size
    )
