"""From rows as they arrive to what the loss looks at.

M positions learned from, K ids kept, N temperatures kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    SampledTargets,
    Targets,
    TeacherHead,
)
from raykd.models.head import read_head
from raykd.soft_targets.codec import (
    FullTargets,
    HiddenStates,
    SampledTokens,
    TopKTargets,
    decode,
)
from raykd.soft_targets.spec import CodecSpec
from raykd.student.module import logit_shape


@dataclass(frozen=True, eq=False)
class Arrived:
    """Soft targets of a micro-batch, ready for the loss."""

    targets: Targets
    label_logprobs_M: torch.Tensor | None
    """The teacher's log probability of the token that follows, where the codec carries it."""


class TargetReader:
    """Decodes rows of one codec for a loss at one temperature."""

    def __init__(
        self, spec: CodecSpec, temperature: float, head_file: Path | None, device: torch.device
    ) -> None:
        """Make ready.

        Args:
            spec: The codec.
            temperature: The loss's; the codec keeps it exactly.
            head_file: The teacher's head, for codec `hidden`.
            device: Where the loss runs.
        """
        self._spec = spec
        self._temperature = temperature
        self._device = device
        self._head: TeacherHead | None = None
        if spec.source == "hidden":
            assert head_file is not None, "codec `hidden` comes with the teacher's head"
            head = read_head(head_file, spec.vocab_size, device)
            self._head = TeacherHead(head.weight_VD, head.bias_V, logit_shape(head.after))

    def __call__(self, rows: pa.Table) -> Arrived:
        """Check and decode; see `to_targets`."""
        return to_targets(rows, self._spec, self._temperature, self._head, self._device)


def to_targets(
    rows: pa.Table,
    spec: CodecSpec,
    temperature: float,
    head: TeacherHead | None,
    device: torch.device,
) -> Arrived:
    """Check and decode.

    Args:
        rows: With the columns of `spec`.
        spec: The codec.
        temperature: The loss's; one that the codec keeps.
        head: The teacher's, for codec `hidden`.
        device: Where the loss runs.

    Raises:
        SoftTargetError: Truncated, corrupted or of another job; names the row.
    """
    found = decode(rows, spec, device)
    if isinstance(found, TopKTargets):
        kept = buckets(found, spec.temperatures.index(temperature))
        return Arrived(kept, found.label_logprobs_T)
    if isinstance(found, SampledTokens):
        sampled = SampledTargets(found.ids_TU, found.weights_TU, found.entropy_T)
        return Arrived(sampled, found.label_logprobs_T)
    if isinstance(found, FullTargets):
        return Arrived(DenseTargets(found.logprobs_TV), found.label_logprobs_T)
    assert isinstance(found, HiddenStates)
    assert head is not None, "codec `hidden` comes with the teacher's head"
    return Arrived(HiddenTargets(found.hidden_TD, head), None)


def buckets(targets: TopKTargets, temperature_index: int) -> BucketTargets:
    """The tail at one of the temperatures that it was kept at."""
    return BucketTargets(
        targets.ids_TK, targets.logprobs_TK, targets.log_tail_TN[:, temperature_index]
    )
