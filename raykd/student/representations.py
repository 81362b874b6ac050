"""How far the student's inner states are from its teacher's: states as they arrive, and the loss.

B rows, T tokens, P positions of all documents with a token to learn, D hidden size, W width of a
projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import torch

from raykd.config.representations import RepresentationsConfig
from raykd.losses.representations import cosine_distance, mean_square, relation_divergence
from raykd.models.alignment import Alignment
from raykd.models.batch import spots_of
from raykd.models.states import Taken
from raykd.soft_targets.codec import InnerStates, decode
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import documents_of, from_wire, whole_documents


@dataclass(frozen=True, eq=False)
class ArrivedStates:
    """The teacher's states of a micro-batch, and where the student's are that go with them."""

    teacher: InnerStates
    keep_P: torch.Tensor
    """int64 indices into the flattened [B * T]."""
    lengths_tokens: list[int]
    """Of each document; they add up to P."""

    @property
    def num_positions(self) -> int:
        """P."""
        return len(self.keep_P)

    def to(self, device: torch.device) -> ArrivedStates:
        """The same on a device."""
        return ArrivedStates(
            InnerStates(
                {at: one.to(device) for at, one in self.teacher.hidden_TD.items()},
                {name: one.to(device) for name, one in self.teacher.projections_TW.items()},
            ),
            self.keep_P.to(device),
            self.lengths_tokens,
        )


def read_states(rows: pa.Table, spec: CodecSpec) -> ArrivedStates:
    """Check and decode, on the CPU: states are large, and only one micro-batch's are needed.

    Args:
        rows: As they arrive, with the columns of `states.wire_schema(spec)`.
        spec: Codec `states`.

    Raises:
        SoftTargetError: Truncated, corrupted or of another job; names the row.
    """
    documents = documents_of(rows)
    states, whole = from_wire(rows, spec), whole_documents(rows)
    # How many there must be, and the row's name in messages.
    for name in ("loss_mask", "row"):
        if name in rows.column_names:
            states = states.append_column(name, whole.column(name))
    keep_P = torch.from_numpy(spots_of(rows)[documents.mask.astype(bool)])
    found = decode(states, spec)
    assert isinstance(found, InnerStates), "of codec `states`"
    return ArrivedStates(found, keep_P, documents.lengths_tokens)


class RepresentationSums(NamedTuple):
    """Sums over positions; the caller divides by the global count of positions.

    Attributes:
        total: The weighted sum of both, with the gradient.
        hidden: Distance of hidden states, a mean over layers, for reading only; 0 where not asked.
        attention: Divergence of attention relations, a mean over heads and relations, for reading
            only; 0 where not asked.
    """

    total: torch.Tensor
    hidden: torch.Tensor
    attention: torch.Tensor


class RepresentationLoss(torch.nn.Module):
    """The loss of inner states, and the projections that bring the student's to another width.

    Where hidden sizes differ, each mapped layer has a learned matrix [D of the student, D of the
    teacher]; it is trained and saved with the student, and no part of its export.
    """

    def __init__(
        self,
        config: RepresentationsConfig,
        alignment: Alignment,
        dtype: torch.dtype,
        seed: int,
        *,
        causal: bool = True,
    ) -> None:
        """Make the projections.

        Args:
            config: What is compared.
            alignment: Of which layers.
            dtype: Of the student's weights.
            seed: Decides the projections' first weights.
            causal: Whether tokens relate to those before them only.
        """
        super().__init__()
        self._config, self._alignment, self._causal = config, alignment, causal
        self.projections = torch.nn.ModuleList()
        widths = alignment.student.hidden_size, alignment.teacher.hidden_size
        if alignment.hidden and widths[0] != widths[1]:
            # On every rank the same, whatever was drawn before.
            draw = torch.Generator().manual_seed(seed)
            for _ in alignment.pairs:
                projection = torch.nn.Linear(*widths, bias=False, dtype=dtype)
                with torch.no_grad():
                    projection.weight.normal_(0.0, widths[0] ** -0.5, generator=draw)
                self.projections.append(projection)

    def forward(self, taken: Taken, arrived: ArrivedStates) -> RepresentationSums:
        """Sums over the positions of a micro-batch; 0, with a gradient of 0, where there is none.

        Args:
            taken: The student's states, padded.
            arrived: The teacher's.
        """
        nothing = arrived.keep_P.new_zeros((), dtype=torch.float32)
        hidden = attention = total = nothing
        if (asked := self._config.hidden) is not None:
            distance = cosine_distance if asked.loss == "cosine" else mean_square
            for at, (student, teacher) in enumerate(self._alignment.pairs):
                mine_PD = _kept(taken.hidden[student], arrived)
                if self.projections:
                    mine_PD = self.projections[at](mine_PD)
                hidden = hidden + distance(mine_PD, arrived.teacher.hidden_TD[teacher])
            hidden = hidden / len(self._alignment.pairs)
            total = total + asked.weight * hidden
        if self._config.attention is not None:
            relations = self._alignment.relations
            for name in relations:
                attention = attention + relation_divergence(
                    _kept(taken.projections[name], arrived),
                    arrived.teacher.projections_TW[name],
                    arrived.lengths_tokens,
                    self._alignment.heads,
                    causal=self._causal,
                )
            attention = attention / len(relations)
            total = total + self._config.attention.weight * attention
        return RepresentationSums(total, hidden.detach(), attention.detach())


def _kept(states_BTD: torch.Tensor, arrived: ArrivedStates) -> torch.Tensor:
    return states_BTD.flatten(0, 1).index_select(0, arrived.keep_P)
