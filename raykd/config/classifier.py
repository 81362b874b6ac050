"""`classifier`: what an encoder is taught: labels, numbers, tags, embeddings or masked tokens."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from raykd.config.section import Section

Task = Literal["single_label", "multi_label", "regression", "tokens", "embedding", "masked"]
Pooling = Literal["mean", "cls"]
WrongTeacher = Literal["learn", "drop", "hard_label"]

LABELLED: Final[tuple[Task, ...]] = ("single_label", "multi_label", "tokens")
"""Tasks whose outputs are labels; a teacher can be wrong in these."""


class ClassifierConfig(Section):
    """An encoder that reads a text, or a pair, and says something of it, or of its tokens."""

    task: Task = Field(
        "single_label",
        description="`single_label`: one of the labels. `multi_label`: any number of them. "
        "`regression`: a number. `tokens`: a label for each word. `embedding`: a vector, such as "
        "a sentence encoder's. `masked`: the tokens that were masked, as a masked language model.",
    )
    labels: list[str] = Field(
        default_factory=list,
        description="Names of the labels, in the order of the outputs. Default: those of the "
        "teacher's configuration (`id2label`).",
    )
    when_teacher_is_wrong: WrongTeacher = Field(
        "learn",
        description="A row where the teacher's label is not the gold one: `learn` from both, "
        "`drop` it, or learn from the `hard_label` alone.",
    )
    cosine: float = Field(
        0.0,
        ge=0,
        description="Weight of 1 - cosine between the last hidden states of teacher and student at "
        "the places that are learned from (DistilBERT's third loss); where their widths differ, "
        "through a matrix that is learned with the student and left behind.",
    )
    pooling: Pooling | None = Field(
        None,
        description="`embedding`: the `mean` of the tokens' last hidden states, or that of the "
        "first (`cls`). Default: as the teacher's `1_Pooling/config.json` says.",
    )
    embedding_loss: Literal["cosine", "mse"] = Field(
        "cosine",
        description="`embedding`: 1 - cosine between the vectors, or the mean squared difference "
        "of their components.",
    )

    mask_fraction: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="`masked`: share of the tokens, special ones apart, that are filled in. Of "
        "these the models see 80 % as the mask token, 10 % as a random one, 10 % as they are.",
    )
    maskings: int = Field(
        1,
        ge=1,
        description="`masked`: times that each document is prepared, each with masks of its own, "
        "for masks do not change from epoch to epoch.",
    )

    @model_validator(mode="after")
    def _keys_of_the_task(self) -> Self:
        if self.labels and self.task not in LABELLED:
            raise ValueError(f"labels: `task: {self.task}` has none; remove them")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: each may be named once; found {self.labels}")
        if len(self.labels) == 1 and self.task != "multi_label":
            raise ValueError(f"labels: `task: {self.task}` needs two or more; found {self.labels}")
        if self.when_teacher_is_wrong != "learn" and self.task not in LABELLED:
            raise ValueError(
                f"when_teacher_is_wrong: a teacher of `task: {self.task}` is never simply wrong; "
                "remove it"
            )
        if self.task == "embedding" and self.cosine > 0:
            raise ValueError(
                "cosine compares what `embedding_loss: cosine` compares already; remove it"
            )
        if self.task != "embedding" and (
            self.pooling is not None or self.embedding_loss != "cosine"
        ):
            raise ValueError("pooling and embedding_loss are for `task: embedding`; remove them")
        if self.task != "masked" and (self.mask_fraction != 0.15 or self.maskings != 1):
            raise ValueError("mask_fraction and maskings are for `task: masked`; remove them")
        return self
