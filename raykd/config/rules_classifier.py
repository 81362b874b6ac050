"""Rules between `method: classifier` and the other sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raykd.config.method import lacking
from raykd.config.rules_masked import OF_CODECS, OF_LOSS, check_masked

if TYPE_CHECKING:
    from raykd.config.classifier import ClassifierConfig
    from raykd.config.corpus import CorpusConfig
    from raykd.config.job import Job
    from raykd.config.section import Section

_OF_CODECS: Final = ("store", "store_mode")
"""Keys of `soft_targets` that mean something here."""
_OF_NOBODY: Final = ("engine", "model", "revision", "trust_remote_code")
"""Keys of a teacher that only lends its tokenizer, and maybe its layers."""
_OF_LOSS: Final = ("temperature", "alpha")


def check_classifier(job: Job) -> None:
    """Refuse what does not go together.

    Raises:
        ValueError: Names the key, and what to do.
    """
    section = job.classifier
    if job.method != "classifier":
        _check_other_method(job)
        return
    if section is None:
        raise ValueError(
            "classifier: missing; `method: classifier` needs to know what is learned: "
            "`classifier: {task: single_label}`"
        )
    _check_teacher(job)
    _check_rows(job)
    masked = section.task == "masked"
    for part, allowed, name in (
        (job.soft_targets, OF_CODECS if _asks_of_masked(job) else _OF_CODECS, "soft_targets"),
        (job.loss, _keys_of_loss(job, masked), "loss"),
    ):
        if idle := _changed(part, allowed):
            raise ValueError(
                f"{name}.{idle[0]}: {_why_idle(job, name)}, so it would change nothing: remove it"
            )
    for field, corpus in _corpora(job).items():
        _check_columns(section, corpus, field)
    _check_loss(job, section)
    _check_student(job)
    if masked:
        check_masked(job, section)


def _check_other_method(job: Job) -> None:
    if job.classifier is not None:
        raise ValueError(
            f"classifier: `method: {job.method}` does not look at it; remove the section, or set "
            "`method: classifier`"
        )
    if job.teacher.engine == "none":
        raise ValueError(
            "teacher.engine: none is for `method: classifier` with `loss.alpha: 1`; other methods "
            "ask their teacher"
        )
    for field, corpus in _corpora(job).items():
        columns = corpus.columns
        if columns.text_pair is not None or columns.label is not None or corpus.label_from_folder:
            raise ValueError(
                f"{field}: text_pair, label and label_from_folder are for `method: classifier`; "
                "remove them"
            )


def _corpora(job: Job) -> dict[str, CorpusConfig]:
    sets = job.evaluation.sets.items()
    return {"data.corpus": job.data.corpus} | {f"evaluation.sets.{n}": c for n, c in sets}


def _check_teacher(job: Job) -> None:
    teacher = job.teacher
    if teacher.engine == "none":
        if job.loss.alpha < 1:
            raise ValueError(
                "teacher.engine: none leaves nobody to ask; set `loss.alpha: 1` to learn from the "
                "labels alone, or let an engine run"
            )
        if job.soft_targets.store_mode != "use":
            raise ValueError(
                "soft_targets.store_mode: with `teacher.engine: none` nothing is kept; remove it"
            )
        if idle := _changed(teacher, _OF_NOBODY):
            raise ValueError(
                f"teacher.{idle[0]}: with `engine: none` no teacher runs, so it would change "
                "nothing: remove it"
            )
    elif problem := lacking(teacher.engine, "classify", "method: classifier"):
        raise ValueError(problem)
    if teacher.tensor_parallel > 1:
        raise ValueError(
            f"teacher.tensor_parallel: {teacher.tensor_parallel}; an encoder is not sharded: set "
            "it to 1, and raise `replicas` for speed"
        )


def _check_rows(job: Job) -> None:
    data = job.data
    if data.packing != "pad":
        raise ValueError("data.packing: an encoder reads one document a row; set `packing: pad`")
    if data.long_documents == "split":
        raise ValueError(
            "data.long_documents: a part of a document need not have its label; set `cut` to read "
            "its beginning, or `refuse`"
        )
    if job.evaluation.every_steps is not None:
        raise ValueError(
            "evaluation.every_steps: a classifier is measured before and after its training only; "
            "remove it"
        )


def _check_loss(job: Job, section: ClassifierConfig) -> None:
    alpha, task = job.loss.alpha, section.task
    if task == "embedding" and alpha > 0:
        raise ValueError(
            f"loss.alpha: {alpha:g}; vectors have no hard labels to learn from: set it to 0"
        )
    if task in ("embedding", "regression") and job.loss.temperature != 1:
        raise ValueError(
            f"loss.temperature: {job.loss.temperature:g}; `task: {task}` has no probabilities to "
            "soften: remove it"
        )
    if alpha == 1 and section.when_teacher_is_wrong != "learn":
        raise ValueError(
            "classifier.when_teacher_is_wrong: with `loss.alpha: 1` no teacher is learned from; "
            "remove it"
        )
    if alpha == 1 and section.cosine > 0:
        raise ValueError(
            "classifier.cosine: with `loss.alpha: 1` no teacher is learned from; remove it, or "
            "lower alpha"
        )
    if (
        alpha > 0
        and task != "masked"
        and job.data.corpus.columns.label is None
        and not job.data.corpus.label_from_folder
    ):
        raise ValueError(
            f"loss.alpha: {alpha:g} learns from labels; name their column as "
            "`data.corpus.columns.label`, or set `label_from_folder: true`"
        )


def _asks_of_masked(job: Job) -> bool:
    """Whether distributions of masked tokens travel."""
    masked = job.classifier is not None and job.classifier.task == "masked"
    return masked and job.teacher.is_asked and job.learns_from_logits


def _keys_of_loss(job: Job, masked: bool) -> tuple[str, ...]:
    """Those that something is made of."""
    if masked and not _asks_of_masked(job):
        return ("alpha",)
    return OF_LOSS if masked else _OF_LOSS


def _why_idle(job: Job, section: str) -> str:
    if job.classifier is not None and job.classifier.task == "masked":
        if not _asks_of_masked(job):
            return "with `loss.alpha: 1` or `teacher.engine: none` no distributions are learned"
        if section == "soft_targets":
            return "masked tokens travel by codec top_k or full"
        return "every masked token counts alike"
    return "a classifier's outputs travel whole and are learned by their task's own loss"


def _check_student(job: Job) -> None:
    if job.student.lora is not None:
        raise ValueError("student.lora: adapters of encoders are not built; remove it")


def _check_columns(section: ClassifierConfig, corpus: CorpusConfig, field: str) -> None:
    columns = corpus.columns
    if section.task == "tokens" and columns.label is None:
        raise ValueError(
            f"{field}.columns.label: missing; `task: tokens` needs it (null where a text has none)"
        )
    if columns.text is None:
        raise ValueError(f"{field}.columns: a classifier reads `text` (and `text_pair`); name it")
    if section.task == "tokens" and (columns.text_pair is not None or corpus.label_from_folder):
        raise ValueError(
            f"{field}: `task: tokens` reads a list of words and a list of their labels; remove "
            "`text_pair` and `label_from_folder`"
        )
    if corpus.label_from_folder and section.task not in ("single_label",):
        raise ValueError(f"{field}.label_from_folder: a folder is one label; `task: single_label`")


def _changed(section: Section, allowed: tuple[str, ...]) -> list[str]:
    """Keys that are not what they are when nobody names them."""
    fields = type(section).model_fields
    return [
        name
        for name, field in fields.items()
        if name not in allowed
        and getattr(section, name) != field.get_default(call_default_factory=True)
    ]
