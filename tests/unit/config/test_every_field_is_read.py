"""No field of a job file may change nothing."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from raykd.config.job import Job

SOURCE = Path(__file__).parents[3] / "raykd"


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models_in(inner)


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from sections(inner)


def attributes_read(paths: Iterator[Path]) -> set[str]:
    """Names that follow a dot and are read, never the ones that are only called like a method."""
    trees = [ast.parse(path.read_text()) for path in paths]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and id(node) not in called
    }


@cache
def read_in_the_product() -> frozenset[str]:
    files = (p for p in SOURCE.rglob("*.py") if "config" not in p.relative_to(SOURCE).parts)
    return frozenset(attributes_read(files))


@cache
def fields_behind_properties() -> dict[str, str]:
    """A field that only a property of its own section reads, to that property."""
    found = {}
    for path in (SOURCE / "config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = getattr(node, "decorator_list", [])
            if any(isinstance(d, ast.Name) and d.id == "property" for d in decorators):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute):
                        found[inner.attr] = node.name
    return found


FIELDS = sorted({(m.__name__, name) for m in sections(Job) for name in m.model_fields})


def has_one_value(section: str, name: str) -> bool:
    """A field with one allowed value is a name on a door: no other value can be given."""
    (model,) = {m for m in sections(Job) if m.__name__ == section}
    annotation = model.model_fields[name].annotation
    return typing.get_origin(annotation) is typing.Literal and len(typing.get_args(annotation)) == 1


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=[".".join(field) for field in FIELDS])
def test_the_field_is_read(section: str, name: str) -> None:
    if has_one_value(section, name):
        return
    read = read_in_the_product()
    assert name in read or fields_behind_properties().get(name) in read


def test_the_walk_sees_all_sections() -> None:
    names = {section for section, _ in FIELDS}
    assert {"FromTeacher", "LoraConfig", "ColumnsConfig", "WandbConfig", "OptimizerConfig"} <= names


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=[".".join(field) for field in FIELDS])
def test_the_field_is_described(section: str, name: str) -> None:
    (model,) = {m for m in sections(Job) if m.__name__ == section}
    description = model.model_fields[name].description
    assert description, "every field says what it is"
    assert description.endswith(".")
