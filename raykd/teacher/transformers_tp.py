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

from raykd.errors import SoftTargetError
from raykd.models.batch import Batch, collate, flat
from raykd.models.head import check_head, head_logits, hidden_states, save_head
from raykd.models.heap import keep_freed_memory
from raykd.models.load import load_model, torch_dtype
from raykd.soft_targets.codec import Encoded, TokenError, encode, to_columns, token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace


class TransformersEngine:
    """A shard. The head's logits exist for `head_chunk_tokens` positions at a time."""

    def __init__(self, spec: EngineSpec, place: ShardPlace) -> None:
        torch.set_num_threads(spec.threads)
        if not spec.use_gpu:
            keep_freed_memory()
        self._spec = spec
        self._rank = place.rank
        self._device = torch.device("cuda", 0) if spec.use_gpu else torch.device("cpu")
        self._parameters, self._bytes = 0, 0
        self._model = self._load(place)
        check_head(self._model, "teacher")

    def _load(self, place: ShardPlace) -> Any:
        arguments: dict[str, Any] = {}
        if place.world_size > 1:
            from transformers.distributed.configuration_utils import DistributedConfig

            _join_group(place, self._spec.use_gpu)
            arguments["distributed_config"] = DistributedConfig(
                tp_size=place.world_size, tp_plan="auto"
            )
        model: Any = load_model(self._spec.source, self._spec.dtype, "teacher.model", **arguments)
        model.requires_grad_(False).eval()
        self._parameters = sum(p.numel() for p in model.parameters())
        self._bytes = self._parameters * torch_dtype(self._spec.dtype).itemsize
        return model.to(self._device) if place.world_size == 1 else model

    def describe(self) -> dict[str, object]:
        """Size of the whole model (DTensors count in full)."""
        return {
            "parameters": self._parameters,
            "bytes": self._bytes,
            "device": torch.cuda.get_device_name(0) if self._spec.use_gpu else "cpu",
        }

    @torch.inference_mode()
    def write_head(self, file: Path) -> None:
        """Write the head's weights and what follows them; see `Engine.write_head`."""
        save_head(self._model, file, write=self._rank == 0)

    @torch.inference_mode()
    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Soft targets of rows; see `Engine.score`."""
        start = time.perf_counter()
        lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
        encoded: list[Encoded | None] = [None] * rows.num_rows
        for group in micro_batches(lengths, self._spec.micro_batch_tokens):
            for row, one in zip(group, self._score_group(rows, group, spec), strict=True):
                encoded[row] = one
        if self._rank != 0:
            return None
        columns = to_columns([one for one in encoded if one is not None], spec)
        share = lengths / max(1, lengths.sum())
        seconds = pa.array(((time.perf_counter() - start) * share).astype(np.float32))
        return pa.table({**columns, "teacher_s": seconds})

    def _score_group(
        self, rows: pa.Table, group: np.ndarray[Any, Any], spec: CodecSpec
    ) -> list[Encoded | None]:
        chosen = rows.take(group)
        batch = collate(chosen).to(self._device)
        hidden_BTD = hidden_states(self._model, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        kept = _kept_tokens(batch, chosen.num_rows)
        keys_M = self._keys(chosen, kept, spec)
        chunks = []
        for at in range(0, max(1, len(hidden_MD)), self._spec.head_chunk_tokens):
            piece = slice(at, at + self._spec.head_chunk_tokens)
            source = hidden_MD[piece]
            if spec.source == "logits":
                # Every shard takes part in the head; only the first needs what comes out.
                source = head_logits(self._model, source, spec.vocab_size)
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
