"""An encoder loaded to be measured, and what a teacher's service took for its rows."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.model import Device, Dtype
from raykd.evaluation.report_data import ModelFacts
from raykd.models.encoder import EncoderSpec, load_encoder
from raykd.models.load import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def loaded(
    name: str, source: ModelSource, spec: EncoderSpec, dtype: Dtype, place: torch.device
) -> Iterator[tuple[PreTrainedModel, ModelFacts]]:
    """A model in evaluation mode, and its size; it is let go at the end of the block.

    Args:
        name: For the report.
        source: A Hugging Face directory.
        spec: The task.
        dtype: To run it in.
        place: To run it on.
    """
    model = load_encoder(source, spec, dtype, name).to(place).eval()  # type: ignore[arg-type]
    facts = ModelFacts(
        name=source.path,
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        dtype=dtype,
    )
    try:
        yield model, facts
    finally:
        del model
        gc.collect()
        if place.type == "cuda":
            torch.cuda.empty_cache()


def place_of(device: Device) -> torch.device:
    """Where a job's device is."""
    return torch.device("cuda" if device == "gpu" else "cpu")


def service_tokens_per_s(table: pa.Table) -> float | None:
    """The rate of the teacher's service on rows that it was asked for; None where all were kept.

    Args:
        table: Rows with `teacher_s`.
    """
    asked = table.filter(pc.greater(table.column("teacher_s"), 0))
    seen = pc.sum(pc.list_value_length(asked.column("input_ids"))).as_py()
    seconds = pc.sum(pc.cast(asked.column("teacher_s"), pa.float64())).as_py()
    return seen / seconds if seconds else None
