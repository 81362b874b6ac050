"""From what a teacher is asked to complete (`schema.PROMPTS`) to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.errors import GenerationError

SHOWN_CHARACTERS = 60


def prompt_text(tokenizer: Any, row: Mapping[str, Any]) -> str:
    """The text of a prompt as the model reads it; a chat ends where the assistant begins.

    Args:
        tokenizer: The teacher's.
        row: `prompt`, `messages` and `text` of `schema.PROMPTS`.

    Raises:
        GenerationError: A chat, and there is no template or it refuses the messages; names the
            prompt.
    """
    import jinja2

    if row["messages"] is None:
        return str(row["text"])
    if not tokenizer.chat_template:
        raise GenerationError(
            f"prompt {row['prompt']} is a chat, and the teacher's tokenizer "
            f"({tokenizer.name_or_path!r}) has no chat template; use an instruction-tuned teacher, "
            "or prompts that it continues as they are: columns `text` or `prompt`, without "
            "`generation.as_chat`"
        )
    try:
        rendered: str = tokenizer.apply_chat_template(
            row["messages"], tokenize=False, add_generation_prompt=True
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise GenerationError(
            f"prompt {row['prompt']} ({shown(row)}) is refused by the teacher's chat template: "
            f"{error}"
        ) from error
    return rendered


def prompt_ids(tokenizer: Any, row: Mapping[str, Any]) -> list[int]:
    """Token ids of a prompt, as documents that are learned from begin too.

    Plain text begins with the tokenizer's begin-of-text token where it has such a habit; a chat
    begins as its template says.

    Raises:
        GenerationError: As `prompt_text`; or it has no tokens.
    """
    ids: list[int] = tokenizer(
        prompt_text(tokenizer, row), add_special_tokens=False, verbose=False
    )["input_ids"]
    if row["messages"] is None:
        bos = tokenizer.bos_token_id
        habit = tokenizer("", add_special_tokens=True)["input_ids"]
        ids = ([bos] if bos is not None and list(habit[:1]) == [bos] else []) + ids
    if not ids:
        raise GenerationError(f"prompt {row['prompt']} is empty; remove it from the corpus")
    return ids


def check_fits(
    row: Mapping[str, Any], num_tokens: int, max_new_tokens: int, context_tokens: int | None
) -> None:
    """See that prompt and completion find room.

    Args:
        row: Of `schema.PROMPTS`.
        num_tokens: The prompt's.
        max_new_tokens: Of the longest completion.
        context_tokens: The teacher's; None where it does not say.

    Raises:
        GenerationError: They do not; names the prompt.
    """
    if context_tokens is not None and num_tokens + max_new_tokens > context_tokens:
        raise GenerationError(
            f"prompt {row['prompt']} ({shown(row)}) has {num_tokens} tokens; with "
            f"generation.sampling.max_new_tokens ({max_new_tokens}) that is more than the "
            f"teacher's context of {context_tokens}. Shorten it, lower max_new_tokens, or take "
            "another teacher"
        )


def context_tokens(config: Any) -> int | None:
    """Longest text that a model was made for, where its configuration says so."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)


def shown(row: Mapping[str, Any]) -> str:
    """The begin of a prompt (of a chat: of its last message), for messages."""
    text = row["text"] if row["messages"] is None else row["messages"][-1]["content"]
    one_line = " ".join(text.split())
    cut = one_line[:SHOWN_CHARACTERS]
    return repr(cut + ("..." if len(one_line) > len(cut) else ""))
