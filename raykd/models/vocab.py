"""Do teacher and student speak of the same tokens?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5


def check_same_tokens(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Refuse two tokenizers that give one id to different tokens.

    Raises:
        ModelError: Names the first ids that differ, from both sides.
    """
    teacher_ids = {i: token for token, i in teacher.get_vocab().items()}
    student_ids = {i: token for token, i in student.get_vocab().items()}
    differing = [
        i
        for i in sorted(teacher_ids.keys() | student_ids.keys())
        if teacher_ids.get(i) != student_ids.get(i)
    ]
    if not differing:
        return
    lines = [
        f"  id {i}: teacher {teacher_ids.get(i)!r}, student {student_ids.get(i)!r}"
        for i in differing[:SHOWN]
    ]
    raise ModelError(
        f"teacher and student have different vocabularies ({len(teacher_ids)} and "
        f"{len(student_ids)} tokens; {len(differing)} ids differ), so the teacher's probabilities "
        "mean other tokens to the student. First differences:\n"
        + "\n".join(lines)
        + "\nChoose a student of the teacher's family, or `init.start: teacher` or `config`."
    )


def shared_vocab_size(
    tokenizer: PreTrainedTokenizerBase, teacher_config: Any, student_config: Any
) -> int:
    """Width of the logits that both sides have: embedding tables may be padded differently.

    Raises:
        ModelError: A model has fewer rows than the tokenizer has ids.
    """
    highest = max(tokenizer.get_vocab().values())
    sizes = {}
    for side, config in (("teacher", teacher_config), ("student", student_config)):
        sizes[side] = int(config.get_text_config().vocab_size)
        if sizes[side] <= highest:
            raise ModelError(
                f"{side}: its vocab_size is {sizes[side]}, but the tokenizer has ids up to "
                f"{highest}; give the tokenizer that belongs to it"
            )
    return min(sizes.values())
