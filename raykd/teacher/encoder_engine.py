"""The engine of classifiers: an encoder that says something of each learned position."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.sampling import SamplingConfig
from raykd.errors import SoftTargetError, TeacherError
from raykd.models.encoder import EncoderOutputs, encoder_outputs, load_encoder
from raykd.models.heap import keep_freed_memory
from raykd.models.masking import batch_of
from raykd.models.sentence import projection_of
from raykd.soft_targets.codec import Encoded, TokenError, encode, to_columns
from raykd.soft_targets.spec import TOP_K_HIDDEN, CodecSpec
from raykd.soft_targets.top_k_hidden import encode as encode_both
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import micro_batches


class EncoderEngine:
    """One encoder in one process; nothing of it is sharded."""

    def __init__(self, spec: EngineSpec, place: ShardPlace) -> None:
        assert spec.encoder is not None, "the pipeline found the models of a classifier"
        assert place.world_size == 1, "the job was checked: an encoder is not sharded"
        torch.set_num_threads(spec.threads)
        if not spec.use_gpu:
            keep_freed_memory()
        self._encoder = spec.encoder
        self._micro_batch_tokens = spec.micro_batch_tokens
        self._device = torch.device("cuda", 0) if spec.use_gpu else torch.device("cpu")
        model = load_encoder(spec.source, spec.encoder, spec.dtype, "teacher.model")
        model.requires_grad_(False).eval()
        self._parameters = sum(p.numel() for p in model.parameters())
        self._bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self._model = model.to(self._device)  # type: ignore[arg-type]
        self._projection = projection_of(spec.source, spec.encoder, spec.dtype, self._device)

    def describe(self) -> dict[str, object]:
        """Size of the model."""
        on_gpu = self._device.type == "cuda"
        return {
            "parameters": self._parameters,
            "bytes": self._bytes,
            "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
        }

    @torch.inference_mode()
    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Outputs of rows; see `Engine.score`."""
        start = time.perf_counter()
        lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
        encoded: dict[int, Encoded] = {}
        for group in micro_batches(lengths, self._micro_batch_tokens):
            encoded |= zip(group.tolist(), self._score_group(rows, group, spec), strict=True)
        columns = to_columns([encoded[row] for row in range(rows.num_rows)], spec)
        share = lengths / max(1, lengths.sum())
        seconds = pa.array(((time.perf_counter() - start) * share).astype(np.float32))
        return pa.table({**columns, "teacher_s": seconds})

    def _score_group(
        self, rows: pa.Table, group: np.ndarray[Any, Any], spec: CodecSpec
    ) -> list[Encoded]:
        batch = batch_of(rows.take(group), self._encoder.masking).to(self._device)
        outputs = encoder_outputs(self._model, batch, self._encoder, self._projection)
        row_M = (batch.keep_M // batch.input_ids_BT.shape[1]).cpu().numpy()
        try:
            encoded = _encoded(outputs, batch.label_ids_M, spec).cpu()
        except TokenError as error:
            row = int(group[row_M[error.token]])
            raise SoftTargetError(f"row {row} of the request: {error.complaint}") from None
        return encoded.split(np.bincount(row_M, minlength=len(group)).tolist())

    def write_head(self, file: Path) -> None:
        """A classifier's outputs need no head to be read."""
        raise TeacherError("a classifier has no language-model head to write")

    def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table | None:
        """An encoder writes no text."""
        raise TeacherError("an encoder cannot generate text")

    def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table | None:
        """Inner states of encoders are not taken."""
        raise TeacherError("`method: classifier` takes no inner states")


def _encoded(outputs: EncoderOutputs, label_ids_M: torch.Tensor, spec: CodecSpec) -> Encoded:
    """What travels: a masked token's distribution, or one vector of outputs and hidden states."""
    outputs_MC, hidden_MH = outputs
    if spec.codec == TOP_K_HIDDEN:
        assert hidden_MH is not None, "the codec is chosen where they are wanted"
        return encode_both(outputs_MC, label_ids_M, hidden_MH, spec)
    if spec.source == "logits":
        return encode(outputs_MC, label_ids_M, None, spec)
    if hidden_MH is not None:
        outputs_MC = torch.cat([outputs_MC, hidden_MH], dim=1)
    return encode(outputs_MC.float(), None, None, spec)
