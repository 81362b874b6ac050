"""Writes `docs/job-file.md` from the configuration models; `--check` only compares."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raykd.config.job import Job

TARGET = Path(__file__).with_name("job-file.md")

HEAD = """\
# The job file

<!-- Written by docs/generate.py from raykd/config/; `make docs` writes it anew. -->

One YAML file says what a run does. [`jobs/quickstart.yaml`](../jobs/quickstart.yaml) is a short one
with comments; this page has every key.

- A key that is not listed here is an error, and the message names the nearest one that is.
- `--set section.key=value` on the command line overrides a key; the value is YAML.
- Names say their unit: `_tokens`, `_bytes`, `_s` (seconds). `null` is "none".
- The job as it was understood, every default filled in, lies in the run directory as `job.yaml`.
- Relative paths count from the directory that `raykd` is started in and are made absolute there.
  In a submitted Ray job that directory is a copy that Ray removes: `storage_path` must be absolute.

"""

RULES = """\
## Rules between keys

- `train.global_batch` is a multiple of `student.num_workers` x `train.micro_batch`.
- `columns` chooses one layout: `text`, or `prompt` with `completion`, or `messages`. `prompt` alone
  is for a corpus whose completions the teacher writes (`generation`).
- `method: sequence` needs a `generation` section; its `loss.alpha` is 1, given or not.
- `generation.as_chat` does not go with `columns.messages`; `system_prompt` and `examples` need
  chats.
- `exact_match` and `math_verify` need a gold completion: `columns.completion`, or `messages` in
  which the assistant answers. `agreement` needs `num_samples` of at least 2.
- `generation.keep_best` is less than `num_samples`; more than one sample needs a
  `sampling.temperature` above 0.
- `subset` and `revision` of a corpus need `format: hub`.
- `data.pad_buckets_tokens` needs `packing: pad`, ascends, and ends with
  `data.sequence_length_tokens`.
- `data.sequence_length_tokens` is at most the context of teacher and of student.
- `teacher.tensor_parallel` divides the teacher's attention heads and its key-value heads.
- `soft_targets.top_k` and `evaluation.top_k` are at most the vocabulary that both sides share.
- A key of `soft_targets` that belongs to other codecs than the job's is refused.
- `soft_targets.codec: sampled` serves `forward_kl` and cross-entropy only; `hidden` does not go
  with `loss.token_weights.teacher_confidence` and `drop_documents_below`, nor `tail: false` with
  `reverse_kl` or `adaptive_kl`.
- `student.offload: all` needs `zero_stage: 3`; `offload: optimizer` needs `zero_stage` 1 to 3.
- `student.lora` does not go with `student.init.start: teacher`.
- `trust_remote_code: true` needs a `revision`.
- `teacher.engine: openai` and `teacher.endpoint` come together, with `method: sequence` and a
  student that begins with `start: pretrained`; keys of a model that raykd runs itself are refused.
- `endpoint.terms_accepted: true` is needed for a host that is not local or private;
  `endpoint.max_cost_usd` needs `price_per_million_tokens`; `generation.keep_best` needs
  `endpoint.logprobs`.
- `representations` goes with `method: logits`, to which it is added, or `method: representations`,
  which needs it and refuses keys of a divergence; its layers are ones that both models have, and
  `attention.heads` divides the projections of both.
- `teacher.mixed_in` and `teacher.of_slices` exclude each other; both go with `method: logits`,
  `engine: transformers` and every codec but `hidden` and `auto`.
- `teacher.of_slices` needs `data.corpus.columns.slice`, and a `slice` column needs `of_slices`.
- Names in `evaluation.sets` are letters, digits, `-` and `_`; `heldout` and `train` are taken.
- `name` is letters, digits, `.`, `_` and `-`, at most 100; `storage_path` is a path, not a URL.
"""


@dataclass(frozen=True)
class Place:
    """A section of the job file: where it stands, and its model."""

    title: str
    model: type[BaseModel]

    @property
    def link(self) -> str:
        """To the section from within the page."""
        return f"[`{self.title}`](#{slug(self.title)})"


def slug(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    kept = (c for c in title.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def sections(model: type[BaseModel], path: str, seen: set[type]) -> Iterator[Place]:
    """Every section below `path`, depth first; a model that came before is not given again."""
    for name, field in model.model_fields.items():
        inner = [m for m in models_in(field.annotation) if m not in seen]
        where = f"{path}.{name}" if path else name
        for one in inner:
            seen.add(one)
            yield Place(_title(where, one, field), one)
            yield from sections(one, where, seen)


def _title(where: str, model: type[BaseModel], field: FieldInfo) -> str:
    if field.discriminator is None:
        return where
    assert isinstance(field.discriminator, str)
    (tag,) = typing.get_args(model.model_fields[field.discriminator].annotation)
    return f"{where} ({field.discriminator}: {tag})"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type mentions, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in typing.get_args(annotation) for m in models_in(part)]


def render() -> str:
    """The whole page."""
    places = list(sections(Job, "", set()))
    titles = {place.model: place for place in places}
    parts = [HEAD, "## Top level\n\n", _table(Job, titles)]
    for place in places:
        depth = "#" * min(4, 2 + place.title.count("."))
        law = (place.model.__doc__ or "").strip().splitlines()[0]
        parts.append(f"\n{depth} {place.title}\n\n{_cell(law)}\n\n{_table(place.model, titles)}")
    return "".join([*parts, "\n", RULES])


def _table(model: type[BaseModel], titles: dict[type[BaseModel], Place]) -> str:
    lines = ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = [
            f"`{name}`",
            _type(field.annotation, titles),
            _default(field),
            _allowed(field),
            _cell(field.description or ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any, titles: dict[type[BaseModel], Place]) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in titles:
        return titles[annotation].link
    if origin is Literal:
        return "choice"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part, titles) for part in inner if part is not type(None))
    if origin is list:
        return f"list of {_type(inner[0], titles)}s"
    if origin is dict:
        return f"mapping of names to {_type(inner[1], titles)}"
    if origin is tuple:
        return f"list of {len(inner)} {_type(inner[0], titles)}s"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, "any value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_unset=True)
        return f"`{_yaml(given)}`" if given else "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A value as one would write it in the job file."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(field: FieldInfo) -> str:
    choices = list(_choices(field.annotation))
    if choices:
        return ", ".join(f"`{_yaml(choice)}`" for choice in choices)
    bounds = [_bound(one) for one in field.metadata]
    return " and ".join(bound for bound in bounds if bound)


def _choices(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is Literal:
        yield from typing.get_args(annotation)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _choices(part)


def _bound(constraint: Any) -> str:
    if isinstance(constraint, annotated_types.MinLen):
        return f"at least {constraint.min_length}"
    marks = {
        annotated_types.Ge: ("ge", "≥"),
        annotated_types.Gt: ("gt", ">"),
        annotated_types.Le: ("le", "≤"),
        annotated_types.Lt: ("lt", "<"),
    }
    name, mark = marks[type(constraint)]  # a constraint of another kind must be added here
    value = getattr(constraint, name)
    return f"{mark} {_power(value)}"


def _power(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is current."""
    page = render()
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page:
            return 0
        print(f"{TARGET} is not what raykd/config/ says; run `make docs`", file=sys.stderr)
        return 1
    TARGET.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
