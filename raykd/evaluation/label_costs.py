"""Speed and memory of a bare encoder: one forward pass over texts, at two batch sizes.

B texts, P tokens of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from raykd.evaluation.costs import median_seconds, peak_bytes_of
from raykd.evaluation.inspection_data import BatchCost
from raykd.models.batch import Batch
from raykd.models.encoder import EncoderOutputs, EncoderSpec, Projection, encoder_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def label_costs(
    model: PreTrainedModel, through: Projection | None, texts_BP: torch.Tensor, spec: EncoderSpec
) -> list[BatchCost]:
    """Measure a model at batch 1 and at batch B.

    Args:
        model: In evaluation mode, on its device.
        through: What its embeddings go through.
        texts_BP: Token ids.
        spec: The task.
    """
    alone = replace(spec, with_hidden=False)
    sizes = sorted({1, len(texts_BP)})
    return [_cost(model, through, texts_BP[:size], alone) for size in sizes]


def _cost(
    model: PreTrainedModel, through: Projection | None, texts_BP: torch.Tensor, spec: EncoderSpec
) -> BatchCost:
    device = next(model.parameters()).device
    batch = _batch(texts_BP, spec).to(device)

    @torch.inference_mode()
    def forward() -> EncoderOutputs:
        return encoder_outputs(model, batch, spec, through)

    forward()  # warms up
    read_s = median_seconds(device, forward)
    return BatchCost(
        batch=len(texts_BP),
        prompt_tokens=texts_BP.shape[1],
        read_tokens_per_s=texts_BP.numel() / read_s,
        peak_bytes=peak_bytes_of(model, forward),
    )


def _batch(texts_BP: torch.Tensor, spec: EncoderSpec) -> Batch:
    """Texts of one length; outputs are wanted of each, or of each of their tokens."""
    num, length = texts_BP.shape
    keep_M = torch.arange(0, num * length, 1 if spec.task == "tokens" else length)
    positions_BP = torch.arange(length).expand(num, length)
    return Batch(texts_BP, positions_BP, keep_M, torch.zeros_like(keep_M))
