"""`method`: what a student learns from, and which engine of a teacher can give it."""

from __future__ import annotations

from typing import Final, Literal

Method = Literal["logits", "sequence", "classifier", "representations"]
Ability = Literal["score", "generate", "represent", "classify"]
EngineName = Literal["transformers", "vllm", "openai", "none"]

NEEDS: Final[dict[Method, Ability]] = {
    "logits": "score",
    "sequence": "generate",
    "classifier": "classify",
    "representations": "represent",
}

ABILITIES: Final[dict[EngineName, tuple[Ability, ...]]] = {
    "transformers": ("score", "generate", "represent", "classify"),
    "vllm": ("score", "generate"),
    "openai": ("generate",),
    "none": (),
}


def lacking(engine: EngineName, needs: Ability, field: str) -> str | None:
    """What to say of an engine that cannot do what a job asks of it; None if it can.

    Args:
        engine: The engine.
        needs: What is asked of it.
        field: The key of the job that asks, with its value.
    """
    if needs in ABILITIES[engine]:
        return None
    able = ", ".join(name for name, can in ABILITIES.items() if needs in can)
    return (
        f"teacher.engine: {engine} cannot {needs}, which `{field}` needs; it can "
        f"{' and '.join(ABILITIES[engine])}. Choose an engine that can: {able}"
    )
