"""`data` and the corpora in it: where text comes from and how it becomes rows."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raykd.config.section import Section

CorpusFormat = Literal["auto", "jsonl", "parquet", "text", "datasets", "hub", "python"]


class ColumnsConfig(Section):
    """Which columns hold the text: `text`, or `prompt` and `completion`, or `messages`."""

    text: str | None = Field(None, description="Column of running text; every token is learned.")
    prompt: str | None = Field(None, description="Column of the prompt; read, not learned.")
    completion: str | None = Field(None, description="Column of the completion; learned.")
    messages: str | None = Field(
        None,
        description="Column of chat messages (a list of {role, content}), rendered by the "
        "tokenizer's chat template; only assistant turns are learned.",
    )
    text_pair: str | None = Field(
        None,
        description="`method: classifier`: column of a second text, read with the first; for "
        "`task: embedding` a text that the first one should find. Of plain text files `text` is "
        "the first paragraph and `text_pair` what follows it.",
    )
    label: str | None = Field(
        None,
        description="`method: classifier`: column of the gold label: a name or its number, a list "
        "of them (multi_label; a list with one for each word: tokens), or a number (regression; "
        "embedding: how alike the pair is). Null where there is none.",
    )
    group: str | None = Field(
        None,
        description="Column of whole numbers: documents of one number, such as answers to one "
        "question, are all held out or all learned from. None holds out each by itself.",
    )
    slice: str | None = Field(
        None,
        description="Column of the name, a text, of the slice that a document is of; "
        "`teacher.of_slices` says which slices have a teacher of their own.",
    )

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if self.prompt is None and self.completion is not None:
            raise ValueError("`completion` needs its `prompt`; give both")
        chosen = [self.text is not None, self.prompt is not None, self.messages is not None]
        if sum(chosen) != 1:
            raise ValueError(
                "choose one layout: `text`, or `prompt` with `completion`, or `messages`"
            )
        if self.text is None and (self.text_pair is not None or self.label is not None):
            raise ValueError("`text_pair` and `label` go with `text`; name its column")
        return self

    @property
    def names(self) -> list[str]:
        """The columns a record must have, in order."""
        wanted = [self.text, self.prompt, self.completion, self.messages]
        wanted += [self.text_pair, self.label, self.group, self.slice]
        return [name for name in wanted if name is not None]


class CorpusConfig(Section):
    """One corpus: files, a `datasets` directory, or a hub name."""

    source: str | list[str] = Field(
        description="A path, a glob, a list of them, a hub name, or `package:NAME/inside/path` "
        "for a file that an installed Python package carries."
    )
    format: CorpusFormat = Field(
        "auto",
        description="How to read it. `auto` goes by the ending: .jsonl/.json, .parquet, "
        ".txt/.md/.rst, .py (a module's literal dict or list of strings, parsed and never "
        "executed), a directory that `datasets` saved; `hub` streams from the Hugging Face hub.",
    )
    subset: str | None = Field(None, description="Hub only: the configuration of the dataset.")
    split: str = Field("train", description="`datasets` and `hub`: which split.")
    revision: str | None = Field(None, description="Hub only: the commit to pin.")
    columns: ColumnsConfig = Field(
        default_factory=lambda: ColumnsConfig(text="text"), description="Where the text is."
    )
    text_unit: Literal["file", "paragraph", "line"] = Field(
        "file", description="Plain text only: what makes one document."
    )
    label_from_folder: bool = Field(
        False,
        description="`method: classifier`, plain text only: the name of the folder that a file "
        "lies in is its gold label.",
    )
    max_documents: int | None = Field(None, ge=1, description="Read at most this many documents.")
    on_bad_record: Literal["stop", "skip"] = Field(
        "stop",
        description="A record that cannot be read (broken JSON, missing column, not UTF-8): stop, "
        "or skip it, count it, and write it to `bad_records.jsonl` in the run's logs.",
    )


class DataConfig(Section):
    """The training corpus and how it becomes rows of tokens."""

    corpus: CorpusConfig = Field(description="The text to learn from.")
    sequence_length_tokens: int = Field(
        1024, ge=8, description="Length of a packed row, and the longest a padded row can be."
    )
    packing: Literal["pack", "pad"] = Field(
        "pack",
        description="`pack` fills rows to the full length with documents kept apart (attention and "
        "positions do not leak across); `pad` keeps one document a row, in length buckets.",
    )
    pad_buckets_tokens: list[int] = Field(
        default_factory=list,
        description="`pad` only: the lengths that rows are padded to, ascending; the last is "
        "`sequence_length_tokens`. Empty: halves of it down to 32.",
    )
    long_documents: Literal["split", "cut", "refuse"] = Field(
        "split",
        description="A document longer than a row: `split` it into rows, `cut` its end off, or "
        "`refuse` it and stop.",
    )
    append_eos: bool = Field(
        True,
        description="End every document with the end-of-text token; chats end as their template "
        "says.",
    )
    shuffle: bool = Field(True, description="Order rows anew each epoch by (seed, epoch).")

    @model_validator(mode="after")
    def _buckets(self) -> Self:
        buckets = self.pad_buckets_tokens
        if buckets and self.packing != "pad":
            raise ValueError("`pad_buckets_tokens` needs `packing: pad`")
        if buckets and (
            sorted(set(buckets)) != buckets or buckets[-1] != self.sequence_length_tokens
        ):
            raise ValueError(
                "`pad_buckets_tokens` must ascend without repeats and end with "
                f"`sequence_length_tokens` ({self.sequence_length_tokens}); found {buckets}"
            )
        return self
