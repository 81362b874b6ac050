"""What a JSON schema has against a document, with lines, in plain words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from raykd.clusters.documents import Document, KeyPath
from raykd.clusters.finding import Finding, fix

LONGEST = 160
"""Characters of a value or message that are shown."""
NAMES = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number"}


def schema_findings(
    document: Document, tree: Any, schema: dict[str, Any], subject: str
) -> Iterator[Finding]:
    """Validate a tree.

    Args:
        document: Where the lines are.
        tree: The document's tree, or one made of it.
        schema: The JSON schema.
        subject: What the findings are about.
    """
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(tree)
    for error in sorted(errors, key=lambda each: [str(part) for part in each.absolute_path]):
        at: KeyPath = tuple(error.absolute_path)
        name = path_text(at)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = sorted(error.schema.get("properties", {}))
            for key in error.instance:
                if key not in known and error.validator_value is False:
                    place = path_text((*at, key))
                    yield fix(
                        subject, f"{place}: unknown key{_hint(key, known)}", document.line(*at, key)
                    )
        elif error.validator == "type":
            wanted = error.validator_value
            wanted = [wanted] if isinstance(wanted, str) else wanted
            names = " or ".join(NAMES.get(each, each) for each in wanted)
            yield fix(
                subject, f"{name}: {names}; found {_shown(error.instance)}", document.line(*at)
            )
        elif error.validator == "required" and isinstance(error.instance, dict):
            # One error a key; several keys come as several errors with the same place.
            missing = error.message.partition(" is a required")[0].strip("'")
            yield fix(subject, f"{name}: {missing} is missing", document.line(*at))
        elif error.validator == "enum":
            choices = ", ".join(map(str, error.validator_value))
            yield fix(
                subject, f"{name}: {_shown(error.instance)}; choose {choices}", document.line(*at)
            )
        else:
            yield fix(subject, f"{name}: {_shortened(error.message)}", document.line(*at))


def path_text(at: KeyPath) -> str:
    """A path as people write it: `spec.workerGroupSpecs[0].groupName`."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the file"


def _hint(key: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if len(known) <= 20 else ""


def _shown(value: Any) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
