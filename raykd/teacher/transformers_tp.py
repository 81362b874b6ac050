"""The `transformers` engine: one shard of a tensor-parallel causal language model."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.errors import SoftTargetError
from raykd.models.batch import Batch, collate
from raykd.models.head import check_head, head_logits, hidden_states
from raykd.models.load import load_model, torch_dtype
from raykd.soft_targets.codec import targets_to_columns
from raykd.soft_targets.top_k import TokenError, TopKTargets, encode_top_k
from raykd.teacher.engine import EngineSpec, ScoreSpec, ShardPlace


class TransformersEngine:
    """A shard. The head's logits exist for `head_chunk_tokens` positions at a time."""

    def __init__(self, spec: EngineSpec, place: ShardPlace) -> None:
        torch.set_num_threads(spec.threads)
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
    def score(self, rows: pa.Table, spec: ScoreSpec) -> pa.Table | None:
        """Soft targets of rows; see `Engine.score`."""
        start = time.perf_counter()
        lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
        targets: list[TopKTargets | None] = [None] * rows.num_rows
        for group in micro_batches(lengths, self._spec.micro_batch_tokens):
            for row, one in zip(group, self._score_group(rows.take(group), spec), strict=True):
                targets[row] = one
        if self._rank != 0:
            return None
        columns = targets_to_columns([t for t in targets if t is not None])
        share = lengths / max(1, lengths.sum())
        seconds = pa.array(((time.perf_counter() - start) * share).astype(np.float32))
        return pa.table({**columns, "teacher_s": seconds})

    def _score_group(self, rows: pa.Table, spec: ScoreSpec) -> list[TopKTargets | None]:
        batch = collate(rows).to(self._device)
        hidden_BTD = hidden_states(self._model, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        chunks = []
        for at in range(0, max(1, len(hidden_MD)), self._spec.head_chunk_tokens):
            piece = slice(at, at + self._spec.head_chunk_tokens)
            # Every shard takes part in the head; only the first needs what comes out.
            logits_TV = head_logits(self._model, hidden_MD[piece], spec.vocab_size)
            if self._rank == 0:
                chunks.append(self._encode(logits_TV, batch, piece, spec))
        if self._rank != 0:
            return [None] * rows.num_rows
        kept = np.bincount(
            batch.keep_M.cpu().numpy() // batch.input_ids_BT.shape[1], minlength=rows.num_rows
        )
        return list(TopKTargets.concatenate(chunks).split(kept.tolist()))

    def _encode(
        self, logits_TV: torch.Tensor, batch: Batch, piece: slice, spec: ScoreSpec
    ) -> TopKTargets:
        try:
            return encode_top_k(
                logits_TV, batch.label_ids_M[piece], spec.top_k, spec.temperatures
            ).cpu()
        except TokenError as error:
            place = int(batch.keep_M[piece][error.token])
            row, token = divmod(place, batch.input_ids_BT.shape[1])
            ids = batch.input_ids_BT[row, : token + 1].tolist()
            raise SoftTargetError(f"{error}; its text ends with token ids {ids[-8:]}") from None


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
