"""Inner states for the rows of a run, with their soft targets where the job learns from both.

Each has a section of the store of its own, so that soft targets which another run kept are read
and only states are asked for. What neither has is asked for in one request, and one forward pass
gives both.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from raykd import schema
from raykd.config.job import Job
from raykd.data.stream import Score
from raykd.pipeline.kept import Kept
from raykd.pipeline.targets import states_spec, training_spec
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import (
    from_wire,
    learned_tokens,
    to_wire,
    whole_documents,
    wire_schema,
)
from raykd.store.scoring import KeptScorer, opened

if TYPE_CHECKING:
    from raykd.pipeline.models import Models

SECONDS = schema.TEACHER_S.name


@dataclass(frozen=True)
class Teachers:
    """The teacher asked for one thing or the other; None where none runs."""

    both: Score | None
    """States, and soft targets before them where the job learns from these."""
    states: Score | None
    targets: Score | None


@dataclass(frozen=True)
class WithStates:
    """Rows to the columns of `training_columns` and `teacher_s`; small enough to travel."""

    codec: CodecSpec | None
    states: CodecSpec
    ask: Teachers
    kept_states: KeptScorer | None = None
    kept_targets: KeptScorer | None = None

    @property
    def stores(self) -> tuple[KeptScorer, ...]:
        """What is read before the teacher is asked."""
        return tuple(one for one in (self.kept_targets, self.kept_states) if one is not None)

    def flush(self) -> None:
        """Publish what the stores hold back."""
        for store in self.stores:
            store.flush()

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets, states and `teacher_s`, row for row.

        Raises:
            StoreError: Something is missing and there is no teacher; or the store fails.
        """
        if self.kept_states is None:
            assert self.ask.both is not None, "without a store there is a teacher"
            return await self.ask.both(rows)
        once = _Once(self, both=await self._lacks_targets(rows))
        known = replace(self.kept_states, ask=once.states if self.ask.states else None)
        states = await known(whole_documents(rows))
        travelling = to_wire(states)
        if self.kept_targets is None:
            return travelling
        known = replace(self.kept_targets, ask=once.targets if self.ask.targets else None)
        return _joined(await known(rows), travelling)

    async def _lacks_targets(self, rows: pa.Table) -> bool:
        """Whether a request for states had better bring soft targets too."""
        if self.kept_targets is None:
            return False
        store = await asyncio.to_thread(opened, self.kept_targets)
        return not (await asyncio.to_thread(store.holds, rows)).all()


@dataclass
class _Once:
    """What one call asks of the teacher: states first, and soft targets in the same request."""

    scorer: WithStates
    both: bool
    asked: pa.Table | None = None
    targets_too: pa.Table | None = None

    async def states(self, rows: pa.Table) -> pa.Table:
        """For the store of states; rows are of `whole_documents`."""
        plain, spec = learned_tokens(rows), self.scorer.states
        ask = self.scorer.ask.both if self.both else self.scorer.ask.states
        assert ask is not None, "asked only where a teacher runs"
        answer = await ask(plain)
        if self.both:
            assert self.scorer.codec is not None, "both are wanted"
            names = target_schema(self.scorer.codec).names
            self.asked, self.targets_too = plain, answer.select(names)
        return from_wire(answer, spec).append_column(schema.TEACHER_S, answer.column(SECONDS))

    async def targets(self, rows: pa.Table) -> pa.Table:
        """For the store of soft targets: what came with the states, if that was for these rows."""
        names = schema.PREPARED.names
        if self.asked is not None and self.asked.select(names).equals(rows.select(names)):
            assert self.targets_too is not None, "they came together"
            nothing = pa.array([0.0] * rows.num_rows, pa.float32())
            return self.targets_too.append_column(schema.TEACHER_S, nothing)
        assert self.scorer.ask.targets is not None, "asked only where a teacher runs"
        return await self.scorer.ask.targets(rows)


def _joined(targets: pa.Table, states: pa.Table) -> pa.Table:
    seconds = pc.add(targets.column(SECONDS), states.column(SECONDS))
    columns = [*targets.drop_columns(SECONDS).columns, *states.drop_columns(SECONDS).columns]
    names = [name for name in (*targets.column_names, *states.column_names) if name != SECONDS]
    return pa.table([*columns, seconds], names=[*names, SECONDS])


def training_columns(job: Job, models: Models) -> pa.Schema:
    """What a training row brings beside itself: soft targets, then states."""
    spec, states = training_spec(job, models), states_spec(job, models)
    fields = list(target_schema(spec)) if job.learns_from_logits or states is None else []
    return pa.schema(fields + (list(wire_schema(states)) if states else []))


def with_states(job: Job, models: Models, kept: Kept | None, ask: Teachers) -> WithStates:
    """Whom to ask for states, and for soft targets where the job learns from these too."""
    states = states_spec(job, models)
    assert states is not None, "the job compares inner states"
    codec = training_spec(job, models) if job.learns_from_logits else None
    if kept is None:
        return WithStates(codec, states, ask)
    return WithStates(
        codec,
        states,
        ask,
        kept.scorer(states, ask.states),
        kept.scorer(codec, ask.targets) if codec else None,
    )
