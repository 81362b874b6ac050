"""What a run's ranks are told, and from which checkpoint they go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.student.checkpoint import Checkpoint, at, latest, newest_good
from raykd.student.engine import ZeroStudent
from raykd.student.notes import add_note
from raykd.student.protocol import Student, StudentSpec

StudentClass = Callable[[StudentSpec], Student]
"""Built on each rank."""


@dataclass(frozen=True)
class StudentRun:
    """All that the ranks need to know; it travels to each."""

    student: StudentSpec
    rows_an_epoch: int
    directory: str
    """The run directory, seen by every node."""
    heldout_file: str | None
    layout_from: Callable[[int], Any]
    """First step to the block layout from there on."""
    student_class: StudentClass = ZeroStudent
    verified: dict[str, int] = field(default_factory=dict, compare=False)
    """Which step's checkpoint was verified, and by which process; it travels to the next one."""

    @property
    def job(self) -> Job:
        """The job."""
        return self.student.job

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return Path(self.directory) / "checkpoints"

    @property
    def stop_file(self) -> Path:
        """Asks the ranks to save and end."""
        return Path(self.directory) / "logs" / "stop"

    @property
    def logs(self) -> Path:
        """Where a rank that failed says why."""
        return Path(self.directory) / "logs"

    def first_step(self) -> int:
        """Steps that the newest good checkpoint has done; called at every start of the group.

        It reads every byte, and a damaged checkpoint is named in a note and moved aside, so that
        the ranks find the same one. What another process verified for this start is taken as it is.

        Raises:
            StorageError: There are checkpoints, and none of them is good.
        """
        before = dict(self.verified)
        self.verified.clear()
        found = latest(self.checkpoints)
        if found and before.get("step") == found.mark.step and before["process"] != os.getpid():
            return found.mark.step
        found = newest_good(self.checkpoints, self.note)
        step = found.mark.step if found else 0
        self.trust(step)
        return step

    def trust(self, step: int) -> None:
        """This process verified the checkpoint of `step`; the next one takes it as it is, once."""
        self.verified.update(step=step, process=os.getpid())

    def note(self, text: str) -> None:
        """Tell the person."""
        add_note(self.logs, text)


def agreed(run: StudentRun, rank: int) -> Checkpoint | None:
    """The checkpoint that the first rank finds: a shared directory may look older elsewhere."""
    import torch
    import torch.distributed as dist

    found = latest(run.checkpoints) if rank == 0 else None
    on_gpu = run.job.student.device == "gpu"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    step = torch.tensor(found.mark.step if found else 0, device=device)
    dist.broadcast(step, src=0)
    return at(run.checkpoints, int(step)) if int(step) else None


def note_inexact(run: StudentRun, found: Checkpoint, num_ranks: int) -> None:
    """What goes on otherwise than if the run had never stopped."""
    saved = found.mark.num_ranks
    if saved != num_ranks:
        run.note(
            f"checkpoint {found.directory.name} of {saved} ranks goes on with {num_ranks}: sums "
            "are rounded in another order, and dropout draws other masks"
        )
    elif not found.files:
        run.note(
            f"checkpoint {found.directory.name} is of an earlier version, without checksums and "
            "random states: it could not be verified, and dropout draws other masks"
        )
