"""From the states that a forward pass put out to the columns of codec `states`.

B rows, T tokens, P tokens of documents, D hidden size, W width of a projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raykd.errors import SoftTargetError
from raykd.models.batch import spots_of
from raykd.models.states import StateTaker, Taken
from raykd.soft_targets import states
from raykd.soft_targets.codec import Encoded, TokenError, to_columns
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import STATE_STAMP, documents_of


def taker_for(model: Any, spec: CodecSpec) -> StateTaker:
    """Hooks for what codec `states` asks for."""
    names = [name for name, _ in spec.attention_widths]
    return StateTaker(model, spec.state_layers, spec.attention_layer, names)


def gathered(taken: Taken, spec: CodecSpec) -> Taken:
    """Whole projections, where each shard has those of its own heads; every shard calls this."""
    whole = {}
    for name, width in spec.attention_widths:
        local_BTW = _plain(taken.projections[name])
        if local_BTW.shape[-1] != width:
            parts = [torch.empty_like(local_BTW) for _ in range(width // local_BTW.shape[-1])]
            torch.distributed.all_gather(parts, local_BTW.contiguous())
            local_BTW = torch.cat(parts, dim=-1)
        whole[name] = local_BTW
    return Taken({at: _plain(taken.hidden[at]) for at in spec.state_layers}, whole)


def _plain(tensor: Any) -> torch.Tensor:
    plain: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return plain


def encode_rows(
    taken: Taken, rows: pa.Table, group: np.ndarray[Any, Any], spec: CodecSpec
) -> list[Encoded]:
    """The states of each row's documents, padding left out.

    Args:
        taken: Of the rows, padded.
        rows: Columns of `schema.PREPARED`.
        group: Which row of the request each is, for messages.
        spec: Codec `states`.

    Raises:
        SoftTargetError: A state holds NaN or inf.
    """
    documents = documents_of(rows)
    device = next(iter([*taken.hidden.values(), *taken.projections.values()])).device
    keep_P = torch.from_numpy(spots_of(rows)[documents.mask.astype(bool)]).to(device)

    def kept(states_BTD: torch.Tensor) -> torch.Tensor:
        return states_BTD.flatten(0, 1).index_select(0, keep_P)

    try:
        encoded = states.encode(
            {at: kept(one) for at, one in taken.hidden.items()},
            {name: kept(one) for name, one in taken.projections.items()},
            spec,
        )
    except TokenError as error:
        ends = np.cumsum(documents.row_tokens)
        row = int(np.searchsorted(ends, error.token, side="right"))
        raise SoftTargetError(f"row {int(group[row])} of the request: {error.complaint}") from None
    return encoded.cpu().split(documents.row_tokens)


def state_columns(rows: Sequence[Encoded], spec: CodecSpec) -> dict[str, pa.Array]:
    """Their columns; the stamp under a name of its own, beside that of soft targets."""
    columns = to_columns(rows, spec)
    return {STATE_STAMP: columns.pop(STAMP), **columns}
