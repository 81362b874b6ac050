"""An encoder student's first weights: existing ones, fresh ones, or ones cut from the teacher.

Whatever a source lacks, such as the head of a task, is drawn from the job's seed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raykd.config.model import Dtype
from raykd.config.student import FromConfig, FromPretrained, FromTeacher
from raykd.models.encoder import (
    EncoderSpec,
    auto_class,
    load_encoder,
    open_encoder,
    options_of,
    require_encoder,
    with_task,
)
from raykd.models.init import config_from_fields, cut_config, cut_from_teacher
from raykd.models.load import ModelSource, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Start = FromPretrained | FromConfig | FromTeacher


def student_encoder_config(
    init: Start, teacher_config: Any, pretrained: Any, spec: EncoderSpec
) -> Any:
    """The student's configuration, checked.

    Args:
        init: Where the student comes from.
        teacher_config: The teacher's; for a student cut from it.
        pretrained: The configuration of `init.model`, where the student is that.
        spec: The task.

    Raises:
        ModelError: A field that the architecture does not have, or a cut that cannot be made.
    """
    if isinstance(init, FromPretrained):
        return with_task(pretrained, spec)
    if isinstance(init, FromTeacher):
        return with_task(cut_config(init, teacher_config), spec)
    config = config_from_fields(init.config)
    require_encoder(config, "student.init.config")
    return with_task(config, spec)


def write_encoder(
    init: Start,
    teacher: ModelSource,
    pretrained: ModelSource | None,
    spec: EncoderSpec,
    seed: int,
    directory: Path,
    teacher_has_head: bool,
) -> ModelSource:
    """Write a new student, head included, beside the tokenizer; leave it if it is there already.

    Args:
        init: Where its weights come from.
        teacher: Whose tokenizer it has, and whose layers where it is cut from it.
        pretrained: `init.model`, where the student is that.
        spec: The task.
        seed: Decides all fresh weights.
        directory: Where to; it appears whole.
        teacher_has_head: False where nobody asks it: then it only lends its layers.
    """
    if not directory.is_dir():
        torch.manual_seed(seed)
        aside = directory.with_name(directory.name + ".aside")
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(init, FromPretrained):
            assert pretrained is not None, "the model was found"
            model, _ = open_encoder(pretrained, spec, "fp32", "student.init")
        elif isinstance(init, FromConfig):
            config = student_encoder_config(init, None, None, spec)
            model = build_encoder(config, spec)
        else:
            model = _cut(init, teacher, spec, teacher_has_head)
        model.save_pretrained(aside)
        load_tokenizer(teacher, "teacher").save_pretrained(aside)
        aside.rename(directory)
    return ModelSource(str(directory.resolve()))


def build_encoder(config: Any, spec: EncoderSpec) -> PreTrainedModel:
    """A model with random weights, from torch's own generator."""
    model: PreTrainedModel = auto_class(spec.task).from_config(
        config, dtype=torch.float32, **options_of(config, spec.task)
    )
    return model


def _cut(
    init: FromTeacher, teacher: ModelSource, spec: EncoderSpec, has_head: bool
) -> PreTrainedModel:
    dtype: Dtype = "fp32"
    if has_head:
        whole = load_encoder(teacher, spec, dtype, "teacher.model")
    else:
        whole, _ = open_encoder(teacher, spec, dtype, "teacher.model")
    return cut_from_teacher(init, whole, lambda config: build_encoder(config, spec))
