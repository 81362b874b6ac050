"""Rules between `method`, `generation` and the sections that they need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykd.config.method import lacking

if TYPE_CHECKING:
    from raykd.config.corpus import ColumnsConfig
    from raykd.config.job import Job


def with_sequence_loss(tree: Any) -> Any:
    """`method: sequence` learns from text alone: an `alpha` that is not given is 1."""
    if not isinstance(tree, dict) or tree.get("method") != "sequence":
        return tree
    loss = tree.get("loss")
    if loss is None:
        loss = {}
    if isinstance(loss, dict) and loss.get("alpha") is None:
        return {**tree, "loss": {**loss, "alpha": 1.0}}
    return tree


def check_generation(job: Job) -> None:
    """Say what is wrong with a job's generated text.

    Raises:
        ValueError: The first rule that does not hold; names the field to change first.
    """
    columns, generation = job.data.corpus.columns, job.generation
    if job.method == "sequence":
        _check_sequence(job)
    for name, corpus in job.evaluation.sets.items():
        _check_completions(corpus.columns, f"evaluation.sets.{name}")
    if generation is None:
        _check_completions(columns, "data.corpus")
        return
    if job.method not in ("sequence", "logits"):
        raise ValueError(
            f"generation: `method: {job.method}` does not learn from generated text; remove the "
            "section, or choose `method: sequence` or `logits`"
        )
    if problem := lacking(job.teacher.engine, "generate", "generation"):
        raise ValueError(problem)
    chats = columns.messages is not None
    if generation.as_chat and chats:
        raise ValueError("generation.as_chat: `columns.messages` are chats already; remove the key")
    for field in ("system_prompt", "examples"):
        if getattr(generation, field) and not (chats or generation.as_chat):
            raise ValueError(
                f"generation.{field}: a plain text has no turns; set `as_chat: true`, or give "
                "`columns: {messages: ...}`"
            )
    if generation.needs_gold and columns.completion is None and not chats:
        raise ValueError(
            "generation.filters: exact_match and math_verify compare with the gold completion; "
            "name its column as `data.corpus.columns.completion`, or give `messages` that end with "
            "the assistant's turn"
        )


def _check_completions(columns: ColumnsConfig, field: str) -> None:
    if columns.prompt is not None and columns.completion is None:
        raise ValueError(
            f"{field}.columns: `prompt` without `completion` has nothing to learn; name the "
            "completions' column. (Of `data.corpus` the teacher can write them: add a "
            "`generation` section)"
        )


def _check_sequence(job: Job) -> None:
    if job.generation is None:
        raise ValueError(
            "generation: missing; `method: sequence` learns from text that the teacher writes. "
            "Add the section (`generation: {sampling: {max_new_tokens: 256}}`)"
        )
    if job.loss.alpha != 1:
        raise ValueError(
            f"loss.alpha: {job.loss.alpha:g} learns from the teacher's distributions too, which "
            "`method: sequence` does not ask for; remove it, or choose `method: logits` with the "
            "same `generation` section"
        )
