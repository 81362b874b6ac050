"""The language-model head on its own: logits of chosen positions, never of all at once.

B rows, T tokens, M chosen positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def hidden_states(
    model: PreTrainedModel, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor
) -> torch.Tensor:
    """The last hidden states [B, T, D] of packed rows.

    Documents are kept apart by `position_ids` alone: without an attention mask and a cache,
    transformers starts a new document wherever the positions do.
    """
    body = model.get_decoder()
    output = body(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def head_logits(
    model: PreTrainedModel, hidden_MD: torch.Tensor, vocab_size: int | None = None
) -> torch.Tensor:
    """Logits [M, V] of hidden states [M, D], with the model's own scale and soft cap.

    `vocab_size` cuts off padded rows of the head.
    """
    head = model.get_output_embeddings()
    logits_MV: torch.Tensor = head(hidden_MD.unsqueeze(0)).squeeze(0)
    if vocab_size is not None:
        logits_MV = logits_MV[:, :vocab_size]
    config: Any = model.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits_MV = logits_MV * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits_MV = logits_MV / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits_MV = torch.tanh(logits_MV / cap) * cap
    return logits_MV


@torch.no_grad()
def check_head(model: PreTrainedModel, field: str) -> None:
    """Compare `head_logits` with the model's own forward pass on a few tokens.

    A model that treats its logits in a way not known here is refused, not learned from wrongly.
    """
    device = next(model.parameters()).device
    ids_BT = (
        torch.arange(3, 11, device=device).unsqueeze(0) % model.config.get_text_config().vocab_size
    )
    positions_BT = torch.arange(8, device=device).unsqueeze(0)
    own = model(input_ids=ids_BT, position_ids=positions_BT, use_cache=False).logits[0].float()
    ours = head_logits(model, hidden_states(model, ids_BT, positions_BT)[0]).float()
    worst = (own - ours).abs().max().item()
    exact = next(model.parameters()).dtype == torch.float32
    allowed = (1e-4 if exact else 2e-2) * max(1.0, own.abs().max().item())
    if not worst <= allowed:
        raise ModelError(
            f"{field}: {type(model).__name__} changes its logits after the head in a way raykd "
            f"does not know (largest difference {worst:.3g}); it cannot be used"
        )
