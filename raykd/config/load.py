"""From a YAML file and `--set` overrides to a checked Job; every complaint has file and line."""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raykd.config.job import Job
from raykd.errors import JobError

KeyPath = tuple[str | int, ...]
Where = dict[KeyPath, str]

UNION_ARM = re.compile(r"int|str|(list|dict|literal)\[.*\]")
"""How pydantic names the types of a union that it tried."""


class _JobLoader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; people mean a number."""


_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_job(path: Path, overrides: list[str] | None = None) -> Job:
    """Read a job file.

    Args:
        path: The YAML file.
        overrides: `dotted.key=value` strings; values are YAML.

    Raises:
        JobError: The file is missing or broken, or a field is wrong; all fields are named at once.
    """
    tree, where = _read(path)
    for text in overrides or []:
        _apply(tree, where, text)
    return parse_job(tree, where, str(path))


def parse_job(tree: dict[str, Any], where: Where, name: str) -> Job:
    """Check a tree of plain values; `where` says where each path was written."""
    try:
        return Job.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(e, where, name) for e in error.errors()]
        raise JobError("\n".join(dict.fromkeys(lines))) from None


def dump_job(job: Job) -> str:
    """The resolved job as YAML."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> tuple[dict[str, Any], Where]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: no such job file") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        node = yaml.compose(text, Loader=_JobLoader)
        tree = _JobLoader(text).get_single_data()
    # ValueError: a date that is none; RecursionError: an alias inside its own anchor.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise JobError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise JobError(f"{path}: a job file is a mapping of sections; found {found}")
    where: Where = {}
    if node is not None:
        _lines(node, (), where, path)
    return tree, where


def _lines(node: yaml.Node, at: KeyPath, where: Where, path: Path) -> None:
    where.setdefault(at, f"{path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            place = f"{path}:{key.start_mark.line + 1}"
            if key.value in seen:
                raise JobError(f"{place}: {key.value!r} is given twice; keep one")
            seen.add(key.value)
            where[(*at, key.value)] = place
            _lines(value, (*at, key.value), where, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _lines(value, (*at, i), where, path)


def _apply(tree: dict[str, Any], where: Where, text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise JobError(f"--set {text}: write it as section.key=value")
    try:
        parsed = _JobLoader(value).get_single_data()
    except (yaml.YAMLError, ValueError):
        raise JobError(f"--set {text}: the value is not valid YAML") from None
    spot = tree
    for i, part in enumerate(parts[:-1]):
        if spot.get(part) is None:
            spot[part] = {}
        if not isinstance(spot[part], dict):
            raise JobError(f"--set {text}: {'.'.join(parts[: i + 1])} is a value, not a section")
        spot = spot[part]
    spot[parts[-1]] = parsed
    for i in range(len(parts)):
        where[tuple(parts[: i + 1])] = f"--set {text}"


def _explain(error: Any, where: Where, name: str) -> str:
    loc = _written_path(error["loc"], where)
    message = error["msg"].removeprefix("Value error, ")
    kind, context = error["type"], error.get("ctx", {})
    if kind.startswith("union_tag"):
        loc = (*loc, context["discriminator"].strip("'"))
        known = [repr(tag) for model in _models_at(error["loc"]) for tag in _tags(model)]
        message = f"choose {', '.join(known)}"
    elif not loc:
        # A rule over several fields names the one to change first.
        first = message.split()[0].rstrip(":")
        return f"{_nearest(tuple(first.split('.')), where, name)}: {message}"
    place = _nearest(loc, where, name)
    field = ".".join(str(p) for p in loc)
    if kind == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{place}: {field}: unknown key; {hint}"
    if kind == "missing":
        return f"{place}: {field}: missing; this key is required"
    found = context.get("tag", error.get("input"))
    shown = "" if isinstance(found, dict | BaseModel) else f"; found {found!r}"
    return f"{place}: {field}: {message[0].lower() + message[1:]}{shown}"


def _written_path(loc: KeyPath, where: Where) -> KeyPath:
    """pydantic puts a union's tag, or the types it tried, into the path; a file has neither."""
    if loc[:2] == ("student", "init"):
        loc = loc[:2] + loc[3:]
    return tuple(
        part
        for i, part in enumerate(loc)
        if loc[: i + 1] in where or not UNION_ARM.fullmatch(str(part)) or isinstance(part, int)
    )


def _nearest(loc: KeyPath, where: Where, name: str) -> str:
    for end in range(len(loc), 0, -1):
        if loc[:end] in where:
            return where[loc[:end]]
    return name


def _fields_at(loc: KeyPath) -> list[str]:
    """Names of the fields of the section at `loc`, a path as pydantic gives it."""
    return sorted({field for model in _models_at(loc) for field in model.model_fields})


def _models_at(loc: KeyPath) -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [Job]
    for part in loc:
        if len(models) > 1:
            models = [model for model in models if part in _tags(model)]
            continue
        inner: list[type[BaseModel]] = []
        for model in models:
            if part in model.model_fields:
                inner += _models_in(model.model_fields[str(part)].annotation)
        models = inner or models
    return models


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What `start` may be for one kind of student."""
    return typing.get_args(model.model_fields["start"].annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated, dict, list):
        return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
    return []
