"""The error tree. A message names the field or file, what was found, and what to do."""

from __future__ import annotations


class RaykdError(Exception):
    """An error a person can act on; the command line prints it without a traceback."""

    exit_code = 1


class JobError(RaykdError):
    """The job file, or something it names, is wrong. Nothing has run."""

    exit_code = 2


class CorpusError(JobError):
    """The text cannot be read as the job says."""


class ModelError(JobError):
    """A model or tokenizer cannot be loaded, or teacher and student do not fit together."""


class ResourceError(JobError):
    """The cluster has less than the job asks for; the message shows the sum."""


class StorageError(JobError):
    """The run directory cannot be written, or holds something else."""


class SubmissionError(JobError):
    """The cluster, or what would be sent to it, is not fit for a submission. Nothing was sent."""


class RunError(RaykdError):
    """The run started and could not go on; the last good checkpoint stays."""


class CapacityError(RunError):
    """Nodes that the run cannot go on without did not come within the job's limit."""


class TeacherError(RunError):
    """The teacher failed on rows that the message names."""


class OrderError(RunError):
    """A rank received rows other than the ones its step consumes."""


class DivergenceError(RunError):
    """The loss or the gradient is not a number; the message names the step and its rows."""


class GenerationError(RunError):
    """Text could not be generated, or nothing of it is fit to learn from; names the prompts."""


class QualityError(RaykdError):
    """A student was measured and does not keep the limits that it was given."""


class SoftTargetError(RunError):
    """Soft targets are malformed: shape, range, NaN, or another vocabulary."""


class StoreError(RaykdError):
    """The soft-target store cannot be read or written, or holds something other than it says."""


class Interrupted(RaykdError):
    """The person stopped the run; one checkpoint was saved where there was something to save."""

    exit_code = 130
