"""What an endpoint said of generated text: whether it is of the student's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from raykd.config.job import Job
from raykd.data.documents import BadRecords, Chat, Document, PromptCompletion, content_of
from raykd.data.tokenize import DocumentTokenizer, TokenizedDocument
from raykd.errors import GenerationError
from raykd.generation.alignment import SAME_TOKENS, UNTOLD, Told, align
from raykd.generation.provenance import Reasoning, columns_of, learned_table
from raykd.generation.samples import Sample
from raykd.generation.store import GenerationStore
from raykd.models.load import load_tokenizer
from raykd.models.token_bytes import TokenBytes, token_bytes
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.writing import store_of

KEY: Final = "key"
"""Column of what is learned that says which completion it is."""
MOST_DIFFERING: Final = 0.5
"""Share of documents that may be dropped for their tokens: beyond it the tokenizers are others."""

Record = Mapping[str, Any]
Aligned = tuple[str, TokenizedDocument, dict[int, Told] | str]
"""A completion's key, its document, and what was said of its tokens or why it is of no use."""


def judge(job: Job, run: RunDirectory, models: Models, samples: Sequence[Sample]) -> None:
    """Drop what the student's tokenizer divides otherwise than the endpoint did.

    Args:
        job: The run's.
        run: Its directory.
        models: Found.
        samples: Judged by all filters; those that are left get one verdict more.

    Raises:
        GenerationError: Most are of no use; shows one.
    """
    assert job.generation is not None
    left = [one for one in samples if not one.dropped]
    learned = learned_table(left, job.generation.reasoning).to_pylist()
    records = {one.request.key: row for one, row in zip(left, learned, strict=True)}
    found = {
        key: said if isinstance(said, str) else None
        for key, _, said in aligned(job, models, store_of(job, run, models), records)
    }
    for one in left:
        one.verdicts[SAME_TOKENS] = found.get(one.request.key, UNTOLD)
    dropped = [one for one in left if one.dropped]
    if len(dropped) > MOST_DIFFERING * len(left):
        raise GenerationError(_most_differ(dropped, len(left)))


def with_keys(learned: pa.Table, samples: Sequence[Sample]) -> pa.Table:
    """What is learned, with the key of each completion."""
    keys = [one.request.key for one in samples if not one.dropped]
    return learned.append_column(KEY, pa.array(keys, pa.string()))


def _most_differ(dropped: Sequence[Sample], of: int) -> str:
    one = dropped[0]
    return (
        f"teacher.endpoint.top_logprobs: of {of} completions {len(dropped)} cannot be learned with "
        f"what the endpoint said of them. Prompt {one.request.prompt}, {one.text[:60]!r}: "
        f"{one.verdicts[SAME_TOKENS]}. Where tokens differ, the endpoint's tokenizer is not the "
        "student's, or its text does not tell tokens apart (with vLLM set `teacher.endpoint."
        "extra_body: {return_tokens_as_token_ids: true}`); or it drew at a high temperature, and "
        "wrote words in unusual pieces. Take a student of the same family, lower generation."
        "sampling.temperature, or remove `top_logprobs` and learn the text with `method: sequence`"
    )


def vocabulary_of(models: Models) -> TokenBytes:
    """The bytes of the student's tokens.

    Raises:
        ModelError: Its tokenizer does not tell them.
    """
    return token_bytes(load_tokenizer(models.teacher, "student.init.model"), models.vocab_size)


def aligned(
    job: Job, models: Models, store: GenerationStore, records: Mapping[str, Record]
) -> Iterator[Aligned]:
    """Documents with what the endpoint said of their tokens; few are in memory at once.

    Args:
        job: The run's.
        models: Found.
        store: Where completions are kept.
        records: What is learned, by the completion's key.
    """
    assert job.generation is not None
    tokenizer = load_tokenizer(models.teacher, "student.init.model")
    vocabulary = vocabulary_of(models)
    tokenize = DocumentTokenizer(tokenizer, job.data.append_eos, BadRecords())
    for part in store.logprobs(set(records)):
        documents = [
            Document(n, f"completion {key}", content_of(records[key], columns_of(records[key])))
            for n, key in enumerate(part)
        ]
        for document, tokens, (key, told) in zip(
            documents, tokenize(documents), part.items(), strict=True
        ):
            text = _learned_text(document, job.generation.reasoning)
            yield key, tokens, align(told, tokens.input_ids, tokens.learn, text, vocabulary)


def _learned_text(document: Document, reasoning: Reasoning) -> str:
    """What of a completion is learned, without what only is read."""
    content = document.content
    if isinstance(content, PromptCompletion):
        return content.completion
    assert isinstance(content, Chat), "generated text is a chat, or a prompt and its completion"
    said = content.messages[-1]
    text: str = said["content"]
    unlearned = said.get("unlearned") if reasoning == "mask" else None
    return text if not unlearned else text[text.find(unlearned) + len(unlearned) :]
