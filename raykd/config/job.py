"""A job: the whole of one job file."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from raykd.config import (
    mixture,
    of_slices,
    rules_endpoint,
    rules_representations,
    rules_top_logprobs,
    rules_vllm,
)
from raykd.config.capacity import CapacityConfig
from raykd.config.classifier import ClassifierConfig
from raykd.config.corpus import DataConfig
from raykd.config.generation import GenerationConfig
from raykd.config.loss import NEED_TAIL, SERVED, LossConfig
from raykd.config.method import Method
from raykd.config.representations import RepresentationsConfig
from raykd.config.rules_classifier import check_classifier
from raykd.config.rules_generation import check_generation, with_sequence_loss
from raykd.config.section import Section
from raykd.config.soft_targets import SoftTargetsConfig
from raykd.config.student import FromTeacher, StudentConfig
from raykd.config.teacher import TeacherConfig
from raykd.config.train import (
    CheckpointConfig,
    EvaluationConfig,
    StreamConfig,
    TrackingConfig,
    TrainConfig,
)


class Job(Section):
    """One job file, checked."""

    name: str = Field(description="Name of the run; its directory is `storage_path/name`.")
    storage_path: str = Field(
        description="Directory of runs, seen by every node (a local path or a shared mount)."
    )
    method: Method = Field(
        "logits",
        description="What the student learns from: `logits`, the teacher's distributions over "
        "the text; `sequence`, text that the teacher writes; `classifier`, an encoder's labels, "
        "numbers, embeddings or masked tokens; `representations`, the teacher's inner "
        "states alone.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Decides row order, held-out set and weights.")
    data: DataConfig = Field(description="Text and rows.")
    teacher: TeacherConfig = Field(description="The model that knows.")
    generation: GenerationConfig | None = Field(
        None, description="Text that the teacher writes first; none learns from the corpus's own."
    )
    classifier: ClassifierConfig | None = Field(
        None, description="`method: classifier`: what the outputs are."
    )
    soft_targets: SoftTargetsConfig = Field(
        default_factory=SoftTargetsConfig, description="What travels."
    )
    student: StudentConfig = Field(description="The model that learns.")
    loss: LossConfig = Field(default_factory=LossConfig, description="What is minimised.")
    representations: RepresentationsConfig | None = Field(
        None, description="Inner states of the teacher to learn from, added to the loss."
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="How long, how.")
    stream: StreamConfig = Field(default_factory=StreamConfig, description="How rows travel.")
    capacity: CapacityConfig = Field(
        default_factory=CapacityConfig, description="What becomes of it where nodes do not come."
    )
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="What is saved."
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured."
    )
    tracking: TrackingConfig = Field(
        default_factory=TrackingConfig, description="Where else metrics go."
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(
                "a run's name is a directory's name: letters, digits, '.', '_' and '-', at most "
                "100, the first a letter or digit"
            )
        return name

    @field_validator("storage_path")
    @classmethod
    def _mounted(cls, path: str) -> str:
        if "://" in path:
            raise ValueError(
                "must be a directory that every node sees; mount object storage (for instance "
                "with a CSI driver or gcsfuse) and give its path"
            )
        return path

    @model_validator(mode="before")
    @classmethod
    def _sequence_learns_from_text(cls, tree: Any) -> Any:
        return with_sequence_loss(tree)

    @model_validator(mode="before")
    @classmethod
    def _as_wide_as_told(cls, tree: Any) -> Any:
        return rules_top_logprobs.with_widths(tree)

    @model_validator(mode="after")
    def _generation_fits(self) -> Self:
        check_generation(self)
        return self

    @model_validator(mode="after")
    def _classifier_fits(self) -> Self:
        check_classifier(self)
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        per_round = self.student.num_workers * self.train.micro_batch
        if self.train.global_batch % per_round:
            raise ValueError(
                f"train.global_batch ({self.train.global_batch}) must be a multiple of "
                f"student.num_workers x train.micro_batch ({self.student.num_workers} x "
                f"{self.train.micro_batch} = {per_round})"
            )
        return self

    @model_validator(mode="after")
    def _cut_without_lora(self) -> Self:
        if isinstance(self.student.init, FromTeacher) and self.student.lora is not None:
            raise ValueError(
                "student.lora adapts weights that work already; a student cut from the teacher "
                "has to learn with all of them: remove `lora`"
            )
        return self

    @model_validator(mode="after")
    def _codec_serves_the_loss(self) -> Self:
        codec = self.soft_targets.codec
        if self.loss.alpha == 1.0 and self.loss.token_weights.needs_confidence:
            raise ValueError(
                "loss.token_weights: teacher_confidence and drop_documents_below ask the teacher, "
                "and with `loss.alpha: 1` it says nothing of the text; lower alpha or remove them"
            )
        if not self.learns_from_logits:
            return self
        served = SERVED.get(codec)
        for name in self.loss.divergences:
            if served is not None and name not in served:
                raise ValueError(
                    f"loss.divergence: {name} cannot be had from `soft_targets.codec: {codec}`, "
                    f"which serves {', '.join(served)}; codecs top_k, hidden and full serve it"
                )
        unbounded = [name for name in NEED_TAIL if name in self.loss.divergences]
        if not self.soft_targets.tail and unbounded:
            raise ValueError(
                "soft_targets.tail: false leaves the teacher no mass beyond the kept ids, which "
                f"makes {unbounded[0]} unbounded; keep the tail"
            )
        if codec == "hidden" and self.loss.token_weights.needs_confidence:
            raise ValueError(
                "loss.token_weights: teacher_confidence and drop_documents_below need the "
                "teacher's probability of each token, which `soft_targets.codec: hidden` does not "
                "carry; choose top_k or sampled"
            )
        return self

    @model_validator(mode="after")
    def _kept_targets_are_known(self) -> Self:
        targets = self.soft_targets
        if targets.codec == "auto" and targets.store_mode == "only":
            raise ValueError(
                "soft_targets.codec: auto asks the teacher, and `store_mode: only` never starts "
                "one; name the codec that is kept"
            )
        asks = self.needs_teacher_for_training or self.targets_are_given
        if targets.store_mode == "fill" and not asks:
            raise ValueError(
                "soft_targets.store_mode: fill has nothing to ask for with `loss.alpha: 1`; "
                "remove it"
            )
        return self

    @model_validator(mode="after")
    def _endpoint_fits(self) -> Self:
        rules_endpoint.check_job(self)
        return self

    @model_validator(mode="after")
    def _mixture_fits(self) -> Self:
        mixture.check_job(self)
        of_slices.check_job(self)
        return self

    @model_validator(mode="after")
    def _vllm_fits(self) -> Self:
        rules_vllm.check_job(self)
        return self

    @model_validator(mode="after")
    def _representations_fit(self) -> Self:
        rules_representations.check(self)
        return self

    @property
    def learns_from_logits(self) -> bool:
        """Whether the teacher's distributions travel with the training rows."""
        return self.method != "representations" and self.loss.alpha < 1.0

    @property
    def needs_teacher_for_training(self) -> bool:
        """False where the text is enough (`loss.alpha: 1`), or its soft targets come with it."""
        asked = self.learns_from_logits and not self.targets_are_given
        return asked or self.representations is not None

    @property
    def targets_are_given(self) -> bool:
        """Whether soft targets are what an endpoint said of the text that it wrote."""
        endpoint = self.teacher.endpoint
        return endpoint is not None and endpoint.top_logprobs is not None

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures that soft targets are exact at: 1 first, the loss's last unless it is 1."""
        tau = self.loss.temperature
        others = sorted(set(self.soft_targets.temperatures) - {1.0, tau})
        return (1.0, *others) if tau == 1.0 else (1.0, *others, tau)
