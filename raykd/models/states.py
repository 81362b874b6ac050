"""What chosen layers put out, taken by hooks while a model runs; no other layer's state is kept.

A hidden state is what a layer puts out, before the norm that follows the last one. Query, key and
value are what the layer's projections put out: before rotary positions and norms of heads, so that
they mean the same in every architecture.

B rows, T tokens, D hidden size, W width of a projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from raykd.errors import ModelError
from raykd.models.alignment import InnerShape

PROJECTIONS: Final[tuple[Mapping[str, str], ...]] = (
    {"query": "q_proj", "key": "k_proj", "value": "v_proj"},
    {"query": "query", "key": "key", "value": "value"},
    {"query": "q_lin", "key": "k_lin", "value": "v_lin"},
)
"""Names of the three projections: Llama and most others; BERT; DistilBERT."""
FUSED: Final = ("c_attn", "qkv_proj", "query_key_value", "Wqkv")
"""Of one projection for all three, whose order differs between architectures."""


@dataclass
class Taken:
    """States of one forward pass.

    Attributes:
        hidden: [B, T, D] by layer.
        projections: [B, T, W] by name, of one layer.
    """

    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    projections: dict[str, torch.Tensor] = field(default_factory=dict)


class StateTaker:
    """Hooks on the layers that are wanted; they hold what passes only within `taking`."""

    def __init__(
        self, model: Any, layers: Sequence[int], attention_layer: int | None, names: Sequence[str]
    ) -> None:
        """Set the hooks.

        Args:
            model: A `transformers` model.
            layers: Whose hidden states are wanted.
            attention_layer: Whose projections are wanted; None for none.
            names: Of the projections: query, key, value.

        Raises:
            ModelError: The model has no such layers or projections.
        """
        stack = layer_stack(model)
        self._taken: Taken | None = None
        for at in layers:
            stack[at].register_forward_hook(self._hold_hidden(at))
        if attention_layer is not None:
            for name, module in projections_of(stack[attention_layer], names).items():
                module.register_forward_hook(self._hold_projection(name))

    @contextmanager
    def taking(self) -> Iterator[Taken]:
        """Hold what passes in this block.

        Activations that are computed anew in the backward pass come after it, and are left alone.
        """
        taken = self._taken = Taken()
        try:
            yield taken
        finally:
            self._taken = None

    # A hook only holds what passes: under activation checkpointing an operation made here would
    # be there in the forward pass and not when the layer is computed anew.

    def _hold_hidden(self, layer: int) -> Any:
        def hold(module: Any, inputs: Any, output: Any) -> None:
            if self._taken is not None:
                self._taken.hidden[layer] = output[0] if isinstance(output, tuple) else output

        return hold

    def _hold_projection(self, name: str) -> Any:
        def hold(module: Any, inputs: Any, output: torch.Tensor) -> None:
            if self._taken is not None:
                self._taken.projections[name] = output

        return hold


def layer_stack(model: Any) -> torch.nn.ModuleList:
    """The list of a model's layers.

    Raises:
        ModelError: It has none.
    """
    want = model.config.get_text_config().num_hidden_layers
    for _, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == want:
            return module
    raise ModelError(
        f"representations: {type(model).__name__} has no list of {want} layers whose states could "
        "be taken"
    )


def projections_of(layer: Any, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    """The modules of a layer that make query, key and value.

    Raises:
        ModelError: They are not modules of their own.
    """
    by_name: dict[str, torch.nn.Module] = {}
    for path, module in layer.named_modules():
        # The first of a name: a layer's self-attention comes before its cross-attention.
        by_name.setdefault(path.rpartition(".")[2], module)
    for known in PROJECTIONS:
        if all(known[name] in by_name for name in names):
            return {name: by_name[known[name]] for name in names}
    fused = next((name for name in FUSED if name in by_name), None)
    why = f"one projection ({fused}) makes all three" if fused else "none of the known names"
    raise ModelError(
        f"representations.attention: {type(layer).__name__} has no query, key and value "
        f"projections of their own ({why}); leave `attention` out and compare `hidden` states"
    )


def require_states(config: Any, layers: Sequence[int], attention: int | None, side: str) -> None:
    """Refuse an architecture whose states cannot be taken, before any weight is read.

    Args:
        config: A `transformers` configuration of a causal language model.
        layers: Whose hidden states are wanted.
        attention: The layer whose projections are wanted; None for none.
        side: `teacher` or `student`, for messages.

    Raises:
        ModelError: It has no such layers or projections.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    names = ("query", "key", "value")
    try:
        StateTaker(model, layers, attention, names)
        if attention is not None:
            _require_widths(projections_of(layer_stack(model)[attention], names), config)
    except ModelError as error:
        raise ModelError(f"{side}: {error}") from None


def _require_widths(projections: Mapping[str, torch.nn.Module], config: Any) -> None:
    """Some architectures put a gate or a latent into a projection."""
    shape = InnerShape.of(config)
    for name, module in projections.items():
        found = getattr(module, "out_features", None)
        if found != shape.width(name):
            raise ModelError(
                f"representations.attention: the {name} projection is {found} wide, where its "
                f"heads make {shape.width(name)}: it holds something else too. Leave `attention` "
                "out and compare `hidden` states"
            )
