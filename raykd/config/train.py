"""`train`: how long and how; `checkpoint`, `evaluation` and `tracking`: what is kept and shown."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from raykd.config.corpus import CorpusConfig
from raykd.config.section import Section


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(1e-4, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's moment decays.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape after warm-up; cosine and linear end at zero."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from zero.")

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= b < 1 for b in betas):
            raise ValueError("each beta lies in [0, 1)")
        return betas


class TrainConfig(Section):
    """Length, batch and optimizer."""

    epochs: int = Field(1, ge=1, description="Times the corpus is learned from.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps.")
    global_batch: int = Field(32, ge=1, description="Rows in one optimizer step, over all ranks.")
    micro_batch: int = Field(4, ge=1, description="Rows in one forward pass of one rank.")
    gradient_clipping: float = Field(1.0, ge=0, description="Largest gradient norm; 0 is off.")
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="AdamW and its schedule."
    )


class StreamConfig(Section):
    """How rows travel from teacher to student."""

    steps_per_block: int = Field(
        1,
        ge=1,
        description="Steps whose rows travel to a rank in one block. Coarser blocks cost less "
        "overhead; aim at 0.4 s of teacher time or more.",
    )
    requests_in_flight: int | None = Field(
        None,
        ge=1,
        description="Requests to the teacher at once; default: two for each replica there may be, "
        "and two more.",
    )
    object_store_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of rows on their way; the teacher waits when they are reached. "
        "Default: a quarter of the object store of the node that has the smallest, or room for a "
        "few blocks where that is more.",
    )
    num_loaders: int = Field(1, ge=1, description="Actors that read rows and call the teacher.")
    cpus_per_loader: float = Field(0.25, gt=0, description="CPUs that each of them reserves.")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="Node labels that the loaders' nodes must carry; tasks that find models, "
        "prepare rows and have held-out ones scored run there too.",
    )


class CheckpointConfig(Section):
    """When the run is saved, and what a failure costs."""

    every_steps: int | None = Field(None, ge=1, description="Save after this many steps.")
    every_minutes: float | None = Field(None, gt=0, description="Save after this much time.")
    keep: int = Field(2, ge=1, description="How many to keep; older ones are removed.")
    max_failures: int = Field(
        0, ge=0, description="Times the student group is restarted from its last checkpoint."
    )


class EvaluationConfig(Section):
    """The held-out rows and what is measured on them."""

    heldout_fraction: float = Field(
        0.05, gt=0, lt=1, description="Share of the corpus's documents kept out of training."
    )
    max_rows: int = Field(64, ge=1, description="At most this many rows of each set.")
    top_k: int = Field(
        256,
        ge=1,
        description="Teacher ids that the held-out divergence is computed over. With "
        "`teacher.endpoint.top_logprobs` the default is all that are told.",
    )
    every_steps: int | None = Field(
        None, ge=1, description="Also measure while training, after this many steps."
    )
    sets: dict[str, CorpusConfig] = Field(
        default_factory=dict, description="More sets by name, for instance out-of-domain text."
    )

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.sets:
            if name in ("heldout", "train") or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"set name {name!r}: letters, digits, - and _ only; not `heldout` or `train`"
                )
        return self


class MlflowConfig(Section):
    """MLflow, where installed."""

    tracking_uri: str = Field(description="Where the MLflow server or store is.")
    experiment: str = Field("raykd", description="Experiment the run goes under.")


class WandbConfig(Section):
    """Weights & Biases, where installed; its key comes from the environment."""

    project: str = Field("raykd", description="Project the run goes under.")
    mode: Literal["online", "offline"] = Field("online", description="Send now, or keep locally.")


class TrackingConfig(Section):
    """Where else the metrics go."""

    tensorboard: bool = Field(False, description="Write TensorBoard events to `logs/tensorboard`.")
    mlflow: MlflowConfig | None = Field(None, description="Log to MLflow.")
    wandb: WandbConfig | None = Field(None, description="Log to Weights & Biases.")
