"""The language-model head on its own: applied to chosen positions, never to all at once.

B rows, T tokens, M chosen positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")
UseOfHead = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Result]
"""(hidden [M, D], weight [V, D], bias [V] or None) to whatever is wanted of them."""


@dataclass(frozen=True)
class AfterHead:
    """What a model does to its logits after the head: cap * tanh(scale * x / cap)."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> AfterHead:
        """As the model's configuration says (Cohere, Granite, Gemma)."""
        config: Any = model.config.get_text_config()
        scale = 1.0
        if (factor := getattr(config, "logit_scale", None)) is not None:
            scale *= factor
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            scale /= divisor
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits_MV: torch.Tensor) -> torch.Tensor:
        """The model's own logits from those of the head."""
        if self.scale != 1.0:
            logits_MV = logits_MV * self.scale
        if self.softcap is not None:
            logits_MV = torch.tanh(logits_MV / self.softcap) * self.softcap
        return logits_MV


class OpenHead(torch.nn.Linear):
    """A head that lets its weights be used within its own forward pass.

    Under ZeRO 3 a weight is whole only there, so a loss that reads the weight must run inside.
    """

    def forward(self, hidden: torch.Tensor, use: UseOfHead[Any] | None = None) -> Any:
        """The logits, or what `use` makes of hidden states and weights."""
        if use is None:
            return torch.nn.functional.linear(hidden, self.weight, self.bias)
        return use(hidden, self.weight, self.bias)


def open_head(model: PreTrainedModel, field: str) -> None:
    """Put an `OpenHead` in the place of the model's head, with the same parameters.

    Names in the state dict, ties to the embedding and the model's own forward pass stay.

    Raises:
        ModelError: The head is not a plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        kind = "none" if head is None else type(head).__name__
        raise ModelError(
            f"{field}: the output head must be a plain linear layer; found {kind}. If LoRA adapts "
            "it, leave it out of student.lora.target_modules"
        )
    opened = OpenHead(head.in_features, head.out_features, bias=False, device="meta")
    opened.weight = head.weight
    opened.bias = head.bias
    model.set_output_embeddings(opened)


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
    return AfterHead.of(model)(logits_MV[:, :vocab_size])


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


@dataclass(frozen=True, eq=False)
class Head:
    """A head that has left its model."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    after: AfterHead


def save_head(model: PreTrainedModel, file: Path, *, write: bool) -> None:
    """Write the head's weights, whole or not at all; every shard of a sharded model calls this.

    Args:
        model: On each of its shards.
        file: A safetensors file; what follows the head is in its metadata.
        write: Whether this shard writes.
    """
    from safetensors.torch import save_file

    head: Any = model.get_output_embeddings()
    named = {"weight": head.weight, "bias": getattr(head, "bias", None)}
    whole = {name: _whole(tensor) for name, tensor in named.items() if tensor is not None}
    if not write:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".aside")
    save_file(whole, aside, {"after": json.dumps(asdict(AfterHead.of(model)))})
    aside.rename(file)


def _whole(tensor: Any) -> torch.Tensor:
    """Gather a tensor that lies in shards."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().cpu().contiguous()


def read_head(file: Path, vocab_size: int, device: torch.device) -> Head:
    """Read what `save_head` wrote.

    Args:
        file: Where.
        vocab_size: Rows of the weight that are wanted; padded ones are left.
        device: Where to.

    Raises:
        ModelError: It is missing or broken, or has fewer rows.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            after = AfterHead(**json.loads(opened.metadata()["after"]))
            tensors = {name: opened.get_slice(name)[:vocab_size] for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the teacher's head cannot be read from {file}: {error}") from error
    if len(tensors["weight"]) < vocab_size:
        raise ModelError(
            f"{file}: the teacher's head has {len(tensors['weight'])} rows, {vocab_size} are needed"
        )
    bias = tensors.get("bias")
    return Head(tensors["weight"].to(device), None if bias is None else bias.to(device), after)
