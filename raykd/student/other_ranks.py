"""A ZeRO checkpoint on another number of ranks, by way of DeepSpeed's universal checkpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raykd.errors import StorageError
from raykd.student.checkpoint import ASIDE, MANIFEST, converted
from raykd.student.checkpoint import read as read_checkpoint
from raykd.student.integrity import Damaged, sync_directories, sync_directory

LOOK_EVERY_S = 0.2
Settings = list[dict[str, Any]]


def saved_ranks(directory: Path) -> int | None:
    """By how many ranks a checkpoint was written; None where it does not say."""
    if not (directory / MANIFEST).is_file():
        return None
    try:
        return read_checkpoint(directory).mark.num_ranks
    except Damaged as reason:
        raise StorageError(f"{directory}: {reason}") from None


def convert_once(checkpoint: Path, tag: str, is_first: bool) -> Path:
    """Where the universal form of a checkpoint is; the first rank makes it, the others wait.

    They wait for its name and not in a collective, for a large one takes longer than a collective
    may.

    Raises:
        StorageError: DeepSpeed cannot convert it.
    """
    target = converted(checkpoint)
    if is_first and not target.is_dir():
        _convert(checkpoint, tag, target)
    while not target.is_dir():
        time.sleep(LOOK_EVERY_S)
    return target


def load(engine: Any, directory: Path, load_plainly: Callable[[Path], None]) -> None:
    """Have the engine load a universal checkpoint as a whole: DeepSpeed's own loading bends AdamW.

    Args:
        engine: DeepSpeed's.
        directory: The universal checkpoint.
        load_plainly: The engine's own loading, from a directory.
    """
    adam = engine.optimizer.optimizer
    settings = [{k: v for k, v in group.items() if k != "params"} for group in adam.param_groups]
    engine._config.load_universal_checkpoint = True
    try:
        load_plainly(directory)
    finally:
        engine._config.load_universal_checkpoint = False
    _restore_groups(adam, settings)
    _part_steps(adam)


def _convert(checkpoint: Path, tag: str, target: Path) -> None:
    aside = target.with_name(target.name + ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        _run_converter(checkpoint / tag, aside / tag)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StorageError(
            f"{checkpoint}: DeepSpeed cannot bring it to another number of ranks "
            f"({type(error).__name__}: {error}); set student.num_workers back to what it was"
        ) from error
    sync_directories(aside)
    aside.rename(target)
    sync_directory(target.parent)


def _run_converter(source: Path, target: Path) -> None:
    """In this process: others would be forked from one that runs threads."""
    from deepspeed.checkpoint import ds_to_universal

    settings = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        ds_to_universal.main(settings)


def _restore_groups(adam: torch.optim.Optimizer, settings: Settings) -> None:
    """DeepSpeed gives all groups the first one's settings under ZeRO 3, weight decay too."""
    for group, before in zip(adam.param_groups, settings, strict=True):
        group.update(before)


def _part_steps(adam: torch.optim.Optimizer) -> None:
    """Each parameter counts its own steps, where it is; DeepSpeed hands out one count on the CPU.

    AdamW adds to it in place: shared by two groups, it would grow by two a step.
    """
    for parameter, state in adam.state.items():
        if "step" in state:
            state["step"] = torch.full(
                (), float(state["step"]), dtype=torch.float32, device=parameter.device
            )
