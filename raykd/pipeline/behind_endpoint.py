"""What is otherwise where the teacher is behind an endpoint: no weights here, no distributions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raykd.config.job import Job
from raykd.errors import JobError, RaykdError
from raykd.models.identity import identity_of
from raykd.models.load import ModelSource
from raykd.pipeline import cluster, nodes
from raykd.pipeline.at_hand import in_words
from raykd.pipeline.finding import Finding

if TYPE_CHECKING:
    from raykd.pipeline.models import Models

PACKAGES: Final = ("openai", "tenacity")
SUBJECT: Final = "endpoint"


def teacher_identity(job: Job, source: ModelSource) -> str:
    """Of a teacher's weights; of an endpoint its address, and what else decides its answers."""
    endpoint = job.teacher.endpoint
    if endpoint is None:
        return identity_of(source)
    more = {"extra_body": endpoint.extra_body, "logprobs": endpoint.logprobs}
    if endpoint.top_logprobs is not None:
        more["top_logprobs"] = endpoint.top_logprobs
    digest = hashlib.sha256(json.dumps([more, endpoint.send_seed], sort_keys=True).encode())
    return f"{endpoint.base_url}#{digest.hexdigest()[:8]}"


def models_in_words(job: Job, models: Models) -> str | None:
    """What stands for the teacher here; None where it is here itself."""
    if job.teacher.endpoint is None:
        return None
    return (
        f"tokenizer and context are the student's, of {models.teacher.path}, vocabulary "
        f"{models.vocab_size:,}; the teacher is behind its endpoint"
    )


def check(job: Job) -> Finding:
    """Are the packages there, and the key on every node that may ask?"""
    endpoint = job.teacher.endpoint
    assert endpoint is not None
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        text = f"{', '.join(missing)}: not installed; pip install 'raykd[openai]'"
        return Finding(False, SUBJECT, f"teacher.engine: openai needs {text}")
    name = endpoint.api_key_env
    lacking = [] if name is None else _without(name, job.stream.labels)
    if lacking:
        return Finding(
            False,
            SUBJECT,
            f"teacher.endpoint.api_key_env: {name} is not set on {', '.join(lacking)}. The key is "
            "not sent there: set it where Ray is started (docs/api-teachers.md)",
        )
    return Finding(True, SUBJECT, f"{in_words(job)}, {_terms(job)}, {_money(job)}")


def check_live(job: Job) -> Finding:
    """What `check` says, and whether the endpoint answers a node that would ask it."""
    finding = check(job)
    if not finding.ok:
        return finding
    try:
        said = cluster.run_remote(_reach, job, cpus=0, labels=job.stream.labels)
    except RaykdError as error:
        return Finding(False, SUBJECT, str(error))
    return Finding(True, SUBJECT, f"{finding.text}; {said}")


def _reach(job: Job) -> str:
    from raykd.endpoint.reach import reach

    return reach(job.teacher)


def require(job: Job) -> None:
    """Refuse to begin where an endpoint could not be asked.

    Raises:
        JobError: Says what is missing, and where.
    """
    if job.teacher.endpoint is not None and not (finding := check(job)).ok:
        raise JobError(finding.text)


def _without(name: str, labels: Mapping[str, str]) -> list[str]:
    """Nodes that tasks may run on, and that lack a variable."""
    where = {
        nodes.name_of(node)
        for node in nodes.alive()
        if labels.items() <= node.get("Labels", {}).items()
    }
    found = nodes.on_every_node(_has, name)
    return [node for node, has in found.items() if node in where and has is not True]


def _has(name: str) -> bool:
    """Whether a variable is set in this process; its value is not looked at."""
    return bool(os.environ.get(name))


def _terms(job: Job) -> str:
    endpoint = job.teacher.endpoint
    assert endpoint is not None
    if endpoint.terms_accepted:
        return "whose terms the job says allow training on its outputs"
    return "a local or private address"


def _money(job: Job) -> str:
    endpoint = job.teacher.endpoint
    assert endpoint is not None
    if endpoint.price_per_million_tokens is None:
        return "no price given: cost is not counted"
    cap = endpoint.max_cost_usd
    return "no cap on its cost" if cap is None else f"at most {cap:g} USD"


@contextmanager
def saying_what_is_left(count: Callable[[], Any]) -> Iterator[None]:
    """Where the block comes to the cap, say how much is left to ask.

    Args:
        count: Tells how many completions are `lacking`, `of` how many.
    """
    from raykd.endpoint.spend import SpendCapError

    try:
        yield
    except SpendCapError as error:
        found = count()
        raise SpendCapError(
            f"{error}. {found.lacking} of {found.of} completions are left"
        ) from None


def paid(job: Job, folder: Path) -> dict[str, Any]:
    """What a run has paid its endpoint, for the report; nothing for other teachers.

    Args:
        job: The run's.
        folder: Where paid answers are kept.
    """
    if job.teacher.endpoint is None:
        return {}
    from raykd.endpoint.ledger import Ledger

    with Ledger(folder, job.name) as ledger:
        return {"endpoint": in_words(job), **asdict(ledger.totals)}
