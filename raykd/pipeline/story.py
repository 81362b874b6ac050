"""The chapters of a run, from rows to the last step of training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.data.layout import BlockLayout
from raykd.data.order import RowOrder
from raykd.data.prepare import open_rows
from raykd.data.stream import DealInOrder, OrderedStream
from raykd.errors import CapacityError, Interrupted, StorageError, StoreError
from raykd.evaluation.probe_table import as_yaml
from raykd.models.load import ModelSource
from raykd.pipeline import (
    cluster,
    generating,
    kept,
    nodes,
    plan,
    probe,
    stages,
    waiting,
)
from raykd.pipeline.asking import score_of, training_score
from raykd.pipeline.encoder_targets import gold_of
from raykd.pipeline.instruments import instruments_of
from raykd.pipeline.lacking import lacks_head, other_sections, rows_lacking
from raykd.pipeline.laying_down import lay_down
from raykd.pipeline.meters import Meters
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.smaller import on_fewer_ranks
from raykd.pipeline.targets import heldout_spec, states_spec, training_spec
from raykd.pipeline.teacher import Parts, Teacher, student_class
from raykd.pipeline.watching import watched
from raykd.pipeline.with_states import training_columns
from raykd.student.checkpoint import newest_good
from raykd.student.notes import NotesTail, add_note
from raykd.student.protocol import StudentSpec
from raykd.student.student_run import StudentRun
from raykd.student.trainer import train
from raykd.telemetry.progress import Progress
from raykd.telemetry.replicas import ReplicaSample


class Story:
    """The chapters of a run; what they all know, they share."""

    def __init__(
        self,
        job: Job,
        run: RunDirectory,
        models: Models,
        initial: ModelSource,
        progress: Progress,
        parts: Parts,
        lost: list[StorageError],
        meters: Meters | None = None,
    ) -> None:
        self.job = job
        self._meters = meters or Meters(instruments_of(job.name))
        self._run = run
        self._models = models
        self._initial = initial
        self._progress = progress
        self._parts = parts
        self._lost = lost
        self._kept = kept.Kept.of(job, models)
        self._data: dict[str, Any] | None = None
        self._done: int | None = None

    def all_is_kept(self) -> bool:
        """Whether the store holds all that the rest of the run asks a teacher for.

        Raises:
            StoreError: It does not, and no teacher may start.
        """
        assert self._kept is not None
        self._prepare_rows()
        if self._needs_targets and self.job.soft_targets.codec == "auto":
            return False
        lacking = self._lacking()
        found = ", ".join(
            f"{one.of - one.rows} of {one.of} rows of {n}" for n, one in lacking.items()
        )
        self._progress.note(f"kept soft targets: {found} ({self._kept.location})")
        missing = [name for name, one in lacking.items() if one.rows]
        if not missing and lacks_head(self.job, self._models, self._run):
            missing = ["the teacher's head (codec hidden)"]
        if missing and self._kept.mode == "only":
            raise StoreError(
                f"soft_targets.store_mode: only, but {self._kept.location} has {found}; lacking: "
                f"{', '.join(missing)}. Other sections there: "
                f"{other_sections(self.job, self._models, self._kept)}. Fill it "
                "with a run of `store_mode: fill`, or let the teacher be asked with "
                "`store_mode: use`"
            )
        return not missing

    @property
    def _needs_targets(self) -> bool:
        return self.job.learns_from_logits

    def _lacking(self) -> dict[str, kept.Lacking]:
        """Of every set, the rows that the store does not hold and the run will need."""
        assert self._kept is not None
        assert self._data is not None
        order, steps = self._order()
        batch, each = self.job.train.global_batch, self.job.stream.steps_per_block
        # A block is scored whole: see `data.layout`.
        first = self._steps_done // each * each
        return rows_lacking(
            self.job,
            self._models,
            self._run,
            self._kept,
            [name for name in self._data if name != "train"],
            (order, range(first * batch, steps * batch)),
        )

    @property
    def _steps_done(self) -> int:
        """Of the newest good checkpoint: what training goes on from. Every byte is read, once."""
        if self._done is None:
            found = newest_good(self._run.checkpoints, self._note_for_good)
            self._done = found.mark.step if found else 0
        return self._done

    def _note_for_good(self, text: str) -> None:
        add_note(self._run.logs, text)
        self._progress.note(text)

    def _prepare_rows(self) -> dict[str, Any]:
        if self._data is None:
            with self._progress.stage("prepare"):
                self._data = cluster.run_remote(
                    stages.prepare_rows,
                    generating.as_learned(self.job, self._run),
                    self._run,
                    self._models,
                    cpus=0,
                    labels=self.job.stream.labels,
                )
            for name, one in self._data.items():
                self._progress.note(f"{name}: {one['sentence']}")
        return self._data

    def prepare(self, teacher: Teacher) -> tuple[dict[str, Any], dict[str, Path]]:
        """Rows, and the teacher's word on the held-out ones; rows are made while it starts."""
        data = self._prepare_rows()
        self._lay_down_given()
        if teacher.is_running:
            with self._progress.stage("teacher"):
                teacher.wait(self.job, self._models)
        targets = {name: self._run.targets(name) for name in data if name != "train"}
        spec, run = heldout_spec(self.job, self._models), self._run
        with self._progress.stage("held-out"):
            for name, file in targets.items():
                score = score_of(self.job, self._models, run, self._kept, teacher, spec, name)
                rows, near = run.data / name, self.job.stream.labels
                # An endpoint says nothing of text that it did not write.
                asked = None if self.job.targets_are_given and name != "heldout" else score
                cluster.run_remote(stages.score_set, asked, rows, file, cpus=0, labels=near)
        return data, targets

    def _lay_down_given(self) -> None:
        """Have soft targets that came with generated text put where all others are kept."""
        if not self.job.targets_are_given:
            return
        job, run, models, near = self.job, self._run, self._models, self.job.stream.labels
        with self._progress.stage("soft targets"):
            done = cluster.run_remote(lay_down, job, run, models, self._kept, cpus=0, labels=near)
        self._progress.note(done.sentence())

    def _see_teacher(self, sample: ReplicaSample) -> None:
        self._progress.teacher(sample)
        self._meters.teacher(sample)

    def decide(self, teacher: Teacher) -> None:
        """A codec in the place of `auto`: what a probe recommends, once and for all."""
        job, run = self.job, self._run
        if job.soft_targets.codec != "auto" or not self._needs_targets:
            return
        found = probe.measure(
            job,
            run,
            self._models,
            self._initial,
            teacher.client,
            run.data / "train",
            probe.Size(),
            self._progress,
        )
        probe.write_probe(run.probe, found)
        best = found.recommended
        self._progress.note(
            f"codec: auto is {as_yaml(best)}: {best.codec_reason} (all of it: {run.probe})"
        )
        self.job = probe.decided(job, run)

    def _order(self) -> tuple[RowOrder, int]:
        """The order of the run's rows, and its steps."""
        job, rows = self.job, open_rows(self._run.data / "train")
        order = RowOrder(
            num_rows=rows.num_rows,
            epochs=job.train.epochs,
            seed=job.seed,
            shuffle=job.data.shuffle,
            lengths=rows.lengths if job.data.packing == "pad" else None,
            global_batch=job.train.global_batch,
        )
        return order, plan.num_steps(job, rows.num_rows)

    def fill(self, teacher: Teacher) -> None:
        """Have all rows scored and kept, then let the teacher go."""
        self._write_head(teacher)
        order, steps = self._order()
        batch = self.job.train.global_batch
        steps_an_epoch = -(-order.num_rows // batch)
        stream = self._stream(teacher, replace(order, epochs=1), min(steps, steps_an_epoch), 1)
        with (
            self._progress.stage("fill"),
            teacher.watched(self._run.teacher_log, self._see_teacher),
        ):
            for _ in stream.score_only():
                if self._lost:
                    raise self._lost[0]
        teacher.stop()

    def _write_head(self, teacher: Teacher) -> None:
        if lacks_head(self.job, self._models, self._run):
            teacher.client.write_head(self._run.teacher_head)

    def _stream(
        self, teacher: Teacher, order: RowOrder, last_step: int, num_ranks: int
    ) -> OrderedStream:
        job = self.job
        return OrderedStream(
            rows_directory=str(self._run.data / "train"),
            order=order,
            layout_from=partial(
                BlockLayout,
                last_step=last_step,
                global_batch=job.train.global_batch,
                num_ranks=num_ranks,
                steps_per_block=job.stream.steps_per_block,
            ),
            first_step=_from_the_start,
            score=training_score(job, self._models, self._run, self._kept, teacher),
            targets=training_columns(job, self._models),
            config=job.stream,
            requests_in_flight=plan.requests_in_flight(job),
        )

    def train(self, teacher: Teacher, targets: dict[str, Path]) -> None:
        """Train to the last step; on fewer ranks where nodes do not come and the job allows it."""
        while True:
            try:
                return self._train(teacher, targets)
            except CapacityError as error:
                self.job = on_fewer_ranks(self.job, error, self._progress.note)
                # What was learned before the ranks lost their room lies in a checkpoint.
                self._done = None

    def _train(self, teacher: Teacher, targets: dict[str, Path]) -> None:
        """Stream rows through the teacher into the student group until the last step."""
        job, run, progress = self.job, self._run, self._progress
        self._write_head(teacher)
        order, steps = self._order()
        stream = self._stream(teacher, order, steps, job.student.num_workers)
        spec, states = training_spec(job, self._models), states_spec(job, self._models)
        student = StudentRun(
            student=StudentSpec(
                job=job,
                source=self._initial,
                num_steps=steps,
                targets=spec,
                heldout=heldout_spec(job, self._models),
                head_file=run.teacher_head
                if self._needs_targets and spec.source == "hidden" and job.method != "classifier"
                else None,
                states=states,
                alignment=self._models.alignment,
                encoder=self._models.encoder,
                gold=gold_of(job, run.data / "train"),
            ),
            rows_an_epoch=order.num_rows,
            directory=str(run.root),
            heldout_file=str(targets["heldout"]) if job.evaluation.every_steps else None,
            layout_from=stream.layout_from,
            student_class=student_class(job, self._parts),
        )
        stream = replace(stream, first_step=student.first_step)
        stream_bytes = plan.object_store_bytes(job, spec, nodes.object_stores(), states)
        deal = DealInOrder(stream_bytes)
        self._meters.limits(num_requests=plan.requests_in_flight(job), stream_bytes=stream_bytes)
        done = self._steps_done
        student.trust(done)
        notes = NotesTail(run.logs)
        if done >= steps:
            progress.note(f"all {steps} steps were done before")
            return
        if done:
            progress.note(f"going on after step {done}, row {done * job.train.global_batch}")
        with (
            progress.stage("train", total=steps),
            teacher.watched(run.teacher_log, self._see_teacher),
            self._meters.training(done, steps, job.train.global_batch),
        ):
            waiter = waiting.active()
            work = partial(train, student, stream, deal, waiter.limit_s if waiter else None)
            done = watched(run, progress, notes, work, done, self._lost, self._meters)
        if done < steps:
            raise Interrupted(
                f"stopped after step {done} of {steps}; checkpoint saved. Go on with --resume"
            )


def _from_the_start() -> int:
    return 0
