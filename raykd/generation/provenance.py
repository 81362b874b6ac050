"""Everything that was generated as a table that people can read, and what is learned of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import pyarrow as pa

from raykd import schema
from raykd.config.corpus import ColumnsConfig
from raykd.generation.samples import Sample
from raykd.generation.store import TOLD

Reasoning = Literal["keep", "mask", "drop"]

_LEARNED_MESSAGE: Final = pa.struct([*schema.MESSAGE, pa.field("unlearned", pa.string())])

CHATS: Final = pa.schema(
    [pa.field("messages", pa.list_(_LEARNED_MESSAGE)), pa.field("group", pa.int64())]
)
"""Documents to learn from, where the prompts were chats."""

PAIRS: Final = pa.schema(
    [
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("group", pa.int64()),
    ]
)
"""The same, where they were plain text."""


def columns_of(names: Iterable[str]) -> ColumnsConfig:
    """Which columns of what is learned hold it.

    Args:
        names: All columns there are.
    """
    if "messages" in names:
        return ColumnsConfig(messages="messages", group="group")
    return ColumnsConfig(prompt="prompt", completion="completion", group="group")


def generated_table(samples: Sequence[Sample], teacher: str, sampling: str) -> pa.Table:
    """Every completion with where it comes from and each filter's verdict.

    Args:
        samples: Judged.
        teacher: Its identity.
        sampling: How it drew, as JSON.
    """
    names = list(dict.fromkeys(name for one in samples for name in one.verdicts))
    fields = [
        pa.field("prompt", pa.string()),
        pa.field("system", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("kept", pa.bool_()),
        *(pa.field(f"verdict_{name}", pa.string()) for name in names),
        *(schema.COMPLETIONS.field(name) for name in TOLD[1:]),
        pa.field("score", pa.float32()),
        pa.field("prompt_number", pa.int64()),
        pa.field("sample", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("teacher", pa.string()),
        pa.field("sampling", pa.string()),
        pa.field("messages", pa.list_(schema.MESSAGE)),
    ]
    rows = [_generated_row(one, names, teacher, sampling) for one in samples]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _generated_row(
    one: Sample, names: Sequence[str], teacher: str, sampling: str
) -> dict[str, Any]:
    asked, told = one.request, one.completion
    verdicts = {
        f"verdict_{name}": one.verdicts[name] or "passed" for name in names if name in one.verdicts
    }
    messages = asked.messages
    said_first = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    return {
        **told,
        **verdicts,
        "prompt": asked.asked,
        "system": said_first,
        "gold": asked.gold,
        "reasoning": one.parts.reasoning,
        "kept": not one.dropped,
        "score": one.score,
        "prompt_number": asked.prompt,
        "sample": asked.sample,
        "seed": asked.seed,
        "teacher": teacher,
        "sampling": sampling,
        "messages": messages,
    }


def learned_table(samples: Sequence[Sample], reasoning: Reasoning) -> pa.Table:
    """What was kept, as documents: chats, or prompts and completions.

    Args:
        samples: Judged; those that were dropped are left out.
        reasoning: What of it is learned.
    """
    kept = [one for one in samples if not one.dropped]
    if kept and kept[0].request.messages is not None:
        rows = [_chat(one, reasoning) for one in kept]
        return pa.Table.from_pylist(rows, schema=CHATS)
    return pa.Table.from_pylist([_pair(one, reasoning) for one in kept], schema=PAIRS)


def _chat(one: Sample, reasoning: Reasoning) -> dict[str, Any]:
    messages = one.request.read or []
    read, learned = _divided(one, reasoning)
    # A template may strip what it renders: the tags stand for the whole.
    unlearned = read.strip() or None
    said = {"role": "assistant", "content": read + learned, "unlearned": unlearned}
    return {"messages": [*messages, said], "group": one.request.group}


def _pair(one: Sample, reasoning: Reasoning) -> dict[str, Any]:
    read, learned = _divided(one, reasoning)
    return {
        "prompt": (one.request.text or "") + read,
        "completion": learned,
        "group": one.request.group,
    }


def _divided(one: Sample, reasoning: Reasoning) -> tuple[str, str]:
    """What of a completion is read, and what is learned after it."""
    if one.parts.reasoning is None or reasoning == "keep":
        return "", one.text
    answer = one.parts.answer or ""
    return ("", answer.lstrip()) if reasoning == "drop" else (one.parts.reasoning, answer)
