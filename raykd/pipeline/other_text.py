"""Text that is no part of a job, read as the job's corpus is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from raykd.config.corpus import ColumnsConfig, CorpusConfig
from raykd.config.job import Job
from raykd.errors import JobError

_LAYOUTS = (("text", "text_pair", "label"), ("prompt", "completion"), ("messages",))
"""Keys of `data.corpus.columns` that come together."""
_OF_ALL = "slice"
"""A key that goes with every layout."""
_MAY_BE_NONE = ("text_pair", "label", _OF_ALL)


def corpus_like_the_jobs(
    job: Job, data: Path, form: str, columns: Sequence[str] = ()
) -> CorpusConfig:
    """The other text, read as the job's corpus is.

    Args:
        job: The run's.
        data: A file or directory.
        form: Its format.
        columns: `KEY=NAME` of `data.corpus.columns`, where they are named otherwise.

    Raises:
        JobError: An option is wrong, or the rows would have nothing to measure.
    """
    corpus = job.data.corpus
    named = _columns(corpus.columns, columns)
    if named.slice is not None and not job.teacher.of_slices:
        raise JobError(
            f"--column slice={named.slice}: nothing looks at it, since the job's one teacher has "
            "all slices; --slice COLUMN makes a table of them"
        )
    by_folder = corpus.label_from_folder and "label=" not in columns
    try:
        return CorpusConfig.model_validate(
            {
                **corpus.model_dump(include={"text_unit", "on_bad_record"}),
                "label_from_folder": by_folder,
                "columns": named.model_dump(),
                "source": str(data.expanduser().absolute()),
                "format": form,
            }
        )
    except ValidationError as error:
        raise JobError(f"--format {form}: {error.errors()[0]['msg']}") from None


def _columns(of_job: ColumnsConfig, asked: Sequence[str]) -> ColumnsConfig:
    """The job's columns, those of another name replaced."""
    named = dict(_pair(text) for text in asked)
    layout = next((keys for keys in _LAYOUTS if set(named) & set(keys)), None)
    kept = of_job.model_dump(include={_OF_ALL, *(layout or chain(*_LAYOUTS))})
    try:
        columns = ColumnsConfig.model_validate({**kept, **named})
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise JobError(f"--column {' '.join(asked)}: {message}") from None
    if columns.prompt is not None and columns.completion is None:
        raise JobError(
            f"--data: column {columns.prompt!r} holds prompts, and a prompt alone has nothing to "
            "measure; name the column of the answers: --column completion=NAME"
        )
    return columns


def _pair(text: str) -> tuple[str, str | None]:
    key, equals, name = text.partition("=")
    allowed = [*chain(*_LAYOUTS), _OF_ALL]
    if not equals or key not in allowed or not (name or key in _MAY_BE_NONE):
        raise JobError(
            f"--column {text!r}: must be KEY=NAME with KEY one of {', '.join(allowed)}; "
            f"{' and '.join(_MAY_BE_NONE)} may have no NAME, where there is no such column"
        )
    return key, name or None
