"""Adapters beside the weights: their sizes, as peft makes them."""

from __future__ import annotations

from raykd.config.student import LoraConfig
from raykd.errors import ModelError
from raykd.planning.shape import ModelShape, Parameter


def trained_and_frozen(
    model: ModelShape, lora: LoraConfig | None
) -> tuple[list[Parameter], list[Parameter]]:
    """The parameters that learn, and those that do not.

    Args:
        model: The student.
        lora: Adapters; None trains all weights.

    Raises:
        ModelError: No layer has a name of `target_modules`.

    Source: Hu et al., "LoRA", arXiv 2106.09685, section 4.1: [r, in] and [out, r] beside a weight.
    """
    if lora is None:
        return list(model.parameters), []
    wanted = lora.target_modules
    adapters = []
    for parameter in model.parameters:
        module = parameter.name.removesuffix(".weight")
        if parameter.role != "linear":
            continue
        if wanted != "all-linear" and not any(_names(module, name) for name in wanted):
            continue
        out, into = parameter.shape if model.sharded else parameter.shape[::-1]
        adapters.append(Parameter(f"{module}.lora_A", (lora.r, into), "linear"))
        adapters.append(Parameter(f"{module}.lora_B", (out, lora.r), "linear"))
    if not adapters:
        raise ModelError(
            f"student.lora.target_modules: {wanted}: no layer of {model.model_type} is called that"
        )
    return adapters, list(model.parameters)


def _names(module: str, name: str) -> bool:
    """As peft matches: the whole name, or its last parts."""
    return module == name or module.endswith(f".{name}")
