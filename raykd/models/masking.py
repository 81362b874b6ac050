"""Masked language models: the text that a model sees, and what it says of the tokens hidden there.

Which tokens are hidden stands in a row's `loss_mask`. The row keeps its own ids, so that these are
the labels; what a model sees in their place follows from the row alone, and so is the same for
teacher and student, in every batch and epoch.

B rows, T tokens of the longest, M masked tokens of all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raykd.models.batch import Batch, collate, flat

REPLACED, RANDOM = 0.8, 0.1
"""Shares of the masked tokens seen as the mask token, and as a random one; the rest is left."""
SCHEME: Final = "80-10-10 by blake2b and philox"
"""Another name makes soft targets that were kept under this one useless."""


@dataclass(frozen=True)
class Masking:
    """What stands in the place of masked tokens.

    Attributes:
        mask_token_id: Of the tokenizer.
        vocab_size: V that both sides share; random tokens are drawn from all of it.
    """

    mask_token_id: int
    vocab_size: int


def batch_of(rows: pa.Table, masking: Masking | None) -> Batch:
    """Rows as an encoder sees them.

    Args:
        rows: Columns of `schema.PREPARED`.
        masking: Of a masked language model: then `keep_M` are the masked tokens themselves, and
            `label_ids_M` what stood there. None leaves all as `collate` makes it.
    """
    batch = collate(rows)
    if masking is None:
        return batch
    # The mask says that the token behind a position is learned.
    masked_M = batch.keep_M + 1
    input_ids_BT = batch.input_ids_BT.clone()
    input_ids_BT.view(-1)[masked_M] = torch.from_numpy(seen_ids(rows, masking))
    return replace(batch, input_ids_BT=input_ids_BT, keep_M=masked_M)


def seen_ids(rows: pa.Table, masking: Masking) -> npt.NDArray[np.int64]:
    """What a model sees in the place of each masked token [M], row after row.

    Args:
        rows: Columns of `schema.PREPARED`; each is one document.
        masking: What may stand there.

    Source: BERT (arXiv 1810.04805), section 3.1, task 1.
    """
    ids, offsets = flat(rows, "input_ids")
    positions, _ = flat(rows, "position_ids")
    masks, _ = flat(rows, "loss_mask")
    parts = [np.zeros(0, np.int64)]
    for start, end in pairwise(offsets):
        # Padding, at position 0, is no part of the document.
        true = np.flatnonzero(positions[start:end])[-1:] + 1
        num_tokens = int(true[0]) if len(true) else 1
        of_row = slice(start, start + num_tokens)
        parts.append(_seen_in_row(ids[of_row], masks[of_row], masking))
    return np.concatenate(parts)


def _seen_in_row(ids_T: Any, mask_T: Any, masking: Masking) -> npt.NDArray[np.int64]:
    masked = np.flatnonzero(mask_T) + 1
    content = ids_T.astype("<i4").tobytes() + mask_T.astype("u1").tobytes()
    key = int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
    # Raw words: what a generator makes of them may change with numpy's version, they do not.
    words = np.random.Philox(key=key).random_raw(2 * len(masked)).reshape(-1, 2)
    draw = (words[:, 0] >> np.uint64(11)) / 2.0**53
    drawn_ids = (words[:, 1] % np.uint64(masking.vocab_size)).astype(np.int64)
    kept = np.where(draw < REPLACED + RANDOM, drawn_ids, ids_T[masked].astype(np.int64))
    seen: npt.NDArray[np.int64] = np.where(draw < REPLACED, masking.mask_token_id, kept)
    return seen


def masked_outputs(
    model: Any, given: dict[str, torch.Tensor], keep_M: torch.Tensor, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [M, V] and last hidden states [M, H] of masked tokens.

    The head runs on these alone, in the model's own forward pass: under ZeRO 3 its weights are
    whole only there.

    Args:
        model: For masked language modelling.
        given: Its arguments.
        keep_M: The tokens, in the flattened [B * T].
        vocab_size: V; outputs beyond it are padding.
    """
    taken: list[torch.Tensor] = []

    def keep_masked(module: Any, args: Any, output: Any) -> Any:
        states_BTH = output.last_hidden_state
        taken.append(states_BTH.flatten(0, 1).index_select(0, keep_M))
        output.last_hidden_state = taken[0][None]
        return output

    hook = model.base_model.register_forward_hook(keep_masked)
    try:
        logits_1MV = model(**given).logits
    finally:
        hook.remove()
    return logits_1MV[0, :, :vocab_size], taken[0]
