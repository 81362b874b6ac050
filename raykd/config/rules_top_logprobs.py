"""What a job may say whose soft targets are an endpoint's own log probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykd.config.loss import NEED_TAIL

if TYPE_CHECKING:
    from raykd.config.job import Job

INSTEAD = "remove it, or `teacher.endpoint.top_logprobs`"


def with_widths(tree: Any) -> Any:
    """Where the job says no number, as many ids are kept and measured over as are told."""
    try:
        top = tree["teacher"]["endpoint"]["top_logprobs"]
    except (KeyError, TypeError):
        return tree
    if type(top) is not int:
        return tree
    filled = dict(tree)
    for name in ("soft_targets", "evaluation"):
        section = tree.get(name) or {}
        if not isinstance(section, dict) or section.get("codec", "top_k") != "top_k":
            continue
        if section.get("top_k") is None:
            filled[name] = {**section, "top_k": top}
    return filled


def check(job: Job) -> None:
    """Refuse what an endpoint's log probabilities cannot give.

    Raises:
        ValueError: Names the field.
    """
    endpoint = job.teacher.endpoint
    assert endpoint is not None
    if endpoint.top_logprobs is None:
        return
    if job.method != "logits" or job.loss.alpha == 1.0:
        learns = f"method: {job.method}" if job.method != "logits" else "loss.alpha: 1"
        raise ValueError(
            "teacher.endpoint.top_logprobs are soft targets for `method: logits`; with "
            f"`{learns}` they would be paid for and not be learned from: remove the key"
        )
    _check_text(job)
    _check_targets(job, endpoint.top_logprobs)
    _check_loss(job)


def _check_text(job: Job) -> None:
    if job.generation is None:
        raise ValueError(
            "teacher.endpoint.top_logprobs: an endpoint says them of what it writes itself, and "
            "scores no text of others; add `generation: {sampling: {max_new_tokens: 256}}`"
        )
    if job.generation.keep_examples:
        raise ValueError(
            "generation.keep_examples: the examples' answers would be learned too, and the "
            f"endpoint says no log probabilities of them; {INSTEAD}"
        )
    if job.representations is not None:
        raise ValueError(
            f"representations: an endpoint gives log probabilities, and no inner states; {INSTEAD}"
        )


def _check_targets(job: Job, told: int) -> None:
    targets = job.soft_targets
    if targets.codec != "top_k" or not targets.tail:
        found = "tail: false" if targets.codec == "top_k" else f"codec: {targets.codec}"
        raise ValueError(
            f"soft_targets.{found}: an endpoint tells the likeliest tokens, and what is left is "
            "the tail; choose `codec: top_k` with its tail"
        )
    for field, k in (
        ("soft_targets.top_k", targets.top_k),
        ("evaluation.top_k", job.evaluation.top_k),
    ):
        if k > told:
            raise ValueError(
                f"{field}: {k} is more than the {told} of teacher.endpoint.top_logprobs; lower it, "
                "or leave it out, which takes all that are told"
            )
    if targets.store_mode != "use":
        raise ValueError(
            f"soft_targets.store_mode: {targets.store_mode}: what an endpoint tells comes with its "
            "text, is kept with it, and goes to the student by the store; leave it at `use`"
        )


def _check_loss(job: Job) -> None:
    if job.temperatures != (1.0,):
        others = ", ".join(f"{t:g}" for t in job.temperatures[1:])
        raise ValueError(
            f"loss.temperature, soft_targets.temperatures: the tail at {others} is a sum over the "
            "whole vocabulary, and an endpoint tells the likeliest tokens only: keep to "
            "temperature 1"
        )
    unbounded = [name for name in NEED_TAIL if name in job.loss.divergences]
    if unbounded:
        raise ValueError(
            f"loss.divergence: {unbounded[0]} punishes mass where the teacher has none, and the "
            "end of a text, of which an endpoint says nothing, has all mass on one token; choose "
            "forward_kl, jsd, skewed_kl, skewed_reverse_kl or total_variation"
        )
