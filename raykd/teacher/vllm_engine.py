"""The `vllm` engine: one shard that holds a whole vLLM, with all its own processes.

vLLM is imported when an engine is built, so that raykd works where it is not installed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import GenerationError, ModelError, SoftTargetError
from raykd.models.batch import flat
from raykd.models.load import load_config, torch_dtype
from raykd.models.prompts import check_fits, prompt_ids, shown
from raykd.soft_targets.codec import Encoded, TokenError, encode, to_columns, token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.generate import Writing
from raykd.teacher.vllm_arguments import VllmOptions, engine_arguments, environment
from raykd.teacher.vllm_documents import Document, documents_in, kept_in_rows
from raykd.teacher.vllm_logprobs import Read, encode_top_k, num_asked, read, whole_rows

MOST_NUMBERS: Final = 2**22
"""Log probabilities of documents that are asked for together. Each is a few objects of Python,
about 150 bytes while vLLM hands it over."""
MOST_NUMBERS_OF_ONE: Final = 2**26
"""Of a single document, which cannot be asked for in parts: about 10 GB."""


class VllmEngine:
    """A shard; vLLM's own shards are its processes or, over several nodes, Ray's workers."""

    def __init__(
        self, spec: EngineSpec, place: ShardPlace, options: VllmOptions | None = None
    ) -> None:
        assert place.world_size == 1, "vLLM starts its own shards"
        self._options = options or VllmOptions()
        self._source, self._dtype = spec.source, spec.dtype
        os.environ.update(environment(spec))
        if not spec.use_gpu:
            torch.set_num_threads(spec.threads)
        self._config = load_config(spec.source, "teacher.model")
        self._vocab_size = int(self._config.get_text_config().vocab_size)
        self._llm = _start(engine_arguments(spec, self._options))
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._context = int(self._llm.llm_engine.model_config.max_model_len)

    def describe(self) -> dict[str, object]:
        """Size of the whole model by its configuration, as if it were not quantised."""
        from transformers import AutoModelForCausalLM
        from vllm.platforms import current_platform

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self._config)
        parameters = sum(p.numel() for p in model.parameters())
        return {
            "parameters": parameters,
            "bytes": parameters * torch_dtype(self._dtype).itemsize,
            "device": current_platform.get_device_name(),
        }

    def write_head(self, file: Path) -> None:
        """Refuse: without hidden states a head is of no use."""
        raise ModelError(
            f"{file}: teacher.engine: vllm does not give hidden states; `raykd probe` and codec "
            "`hidden` need `engine: transformers`"
        )

    def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table | None:
        """Refuse: vLLM keeps inner states to itself."""
        raise ModelError(
            f"{rows.num_rows} rows, states of {states.codec}, {codec}: teacher.engine: vllm does "
            "not give inner states; choose `engine: transformers`"
        )

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Soft targets of rows, document by document; see `Engine.score`."""
        start = time.perf_counter()
        documents = documents_in(rows)
        kept = kept_in_rows(documents, rows.num_rows)
        whole = self._reads_whole(spec)
        self._check(documents, spec)
        asked = self._vocab_size if whole else num_asked(spec, self._vocab_size)
        keys_M = _keys(rows, kept, spec)
        # So that a request without anything to learn has its columns.
        parts = [_encode_whole(torch.empty(0, spec.vocab_size), [], keys_M[:0], spec)]
        done = 0
        for group in groups(documents, asked):
            said = self._ask(group, -1 if whole else asked)
            piece = slice(done, done + sum(len(one.wanted) for one in group))
            done = piece.stop
            try:
                if whole:
                    logits_MV = whole_rows(said, self._vocab_size, spec.vocab_size)
                    parts.append(_encode_whole(logits_MV, group, keys_M[piece], spec))
                else:
                    parts.append(encode_top_k(said, spec))
            except TokenError as error:
                raise named(error, group) from None
        columns = to_columns(Encoded.concatenate(parts).split(kept), spec)
        return pa.table({**columns, "teacher_s": _seconds(rows, start)})

    def _reads_whole(self, spec: CodecSpec) -> bool:
        """Whether every log probability is read.

        Raises:
            SoftTargetError: They are needed, and the job does not have them read.
        """
        likeliest_do = spec.codec == "top_k" and (not spec.tail or len(spec.temperatures) == 1)
        if spec.source == "hidden" or not (likeliest_do or self._options.full_vocabulary):
            raise SoftTargetError(
                f"teacher.engine: vllm gives codec top_k at temperature 1, and with `teacher.vllm."
                f"full_vocabulary: true` codecs top_k, sampled and full at any; found "
                f"{spec.codec} at {', '.join(f'{t:g}' for t in spec.temperatures)}"
            )
        return self._options.full_vocabulary

    def _check(self, documents: Sequence[Document], spec: CodecSpec) -> None:
        """See that vLLM can take every document."""
        for document in documents:
            row, length = document.row, len(document.token_ids)
            outside = np.flatnonzero(document.labels >= spec.vocab_size)
            if len(outside):
                token = int(document.wanted[outside[0]])
                raise SoftTargetError(
                    f"row {row} of the request, token {document.start + token}: its label is id "
                    f"{document.token_ids[token + 1]}, outside the teacher's vocabulary of "
                    f"{spec.vocab_size} ids; is the text tokenized with the teacher's tokenizer?"
                )
            if length >= self._context:
                raise SoftTargetError(
                    f"row {row} of the request has a document of {length} tokens; vLLM writes one "
                    f"token more, and its longest text has {self._context}: raise "
                    "teacher.vllm.max_model_len, or lower data.sequence_length_tokens"
                )

    def _ask(self, documents: Sequence[Document], asked: int) -> Read:
        """Log probabilities at the wanted tokens of documents, one after the other."""
        from vllm import SamplingParams

        wanted = SamplingParams(
            # vLLM always writes at least one.
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=asked,
            flat_logprobs=True,
            detokenize=False,
        )
        told = self._llm.generate(
            [{"prompt_token_ids": one.token_ids} for one in documents], wanted, use_tqdm=False
        )
        pairs = zip(told, documents, strict=True)
        return Read.concatenate([read(one.prompt_logprobs, document) for one, document in pairs])

    def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table | None:
        """Completions of prompts; see `Engine.generate`.

        Each has its own seed. vLLM's logits differ by rounding with what else is at work, and so
        does a draw that falls on an edge.
        """
        rows = [Writing(row, prompt_ids(self._tokenizer, row)) for row in prompts.to_pylist()]
        for one in rows:
            check_fits(one.row, len(one.ids), sampling.max_new_tokens, self._context)
        told = self._llm.generate(
            [{"prompt_token_ids": one.ids} for one in rows],
            [self._sampling(one.row, sampling) for one in rows],
            use_tqdm=False,
        )
        for one, output in zip(rows, told, strict=True):
            take(one, output.outputs[0])
        completions = [one.as_completion(self._tokenizer, sampling.stop) for one in rows]
        return pa.Table.from_pylist(completions, schema=schema.COMPLETIONS)

    def _sampling(self, row: dict[str, Any], sampling: SamplingConfig) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=-1 if sampling.top_k is None else sampling.top_k,
            stop=sampling.stop,
            seed=row["seed"],
            # Of the drawn token alone.
            logprobs=0,
            flat_logprobs=True,
        )


def groups(documents: Sequence[Document], asked: int) -> Iterator[list[Document]]:
    """Documents that are asked for together, in order, by what their answers take in memory.

    Raises:
        SoftTargetError: One alone takes too much.
    """
    group: list[Document] = []
    numbers = 0
    for document in documents:
        own = len(document.token_ids) * (asked + 1)
        if own > MOST_NUMBERS_OF_ONE:
            raise SoftTargetError(
                f"a document of {len(document.token_ids)} tokens with {asked} log probabilities "
                f"each is {own:.2g} numbers, more than the {MOST_NUMBERS_OF_ONE:.2g} that vLLM "
                "hands over in reasonable memory; lower data.sequence_length_tokens, keep to codec "
                "top_k at temperature 1 without `teacher.vllm.full_vocabulary`, or choose `engine: "
                "transformers`"
            )
        if group and numbers + own > MOST_NUMBERS:
            yield group
            group, numbers = [], 0
        group.append(document)
        numbers += own
    if group:
        yield group


def take(one: Writing, output: Any) -> None:
    """Take over what vLLM wrote (`vllm.CompletionOutput`) without the token that ended it.

    Raises:
        GenerationError: vLLM gave up, or its logits are no numbers.
    """
    ids, logprobs = list(output.token_ids), list(output.logprobs.logprobs)
    where = f"prompt {one.row['prompt']} ({shown(one.row)})"
    if output.finish_reason not in ("stop", "length"):
        raise GenerationError(f"{where}: vLLM ended it with {output.finish_reason!r}")
    if not all(map(math.isfinite, logprobs)):
        raise GenerationError(
            f"{where}: the teacher's logits are no numbers; its weights are broken, or its dtype "
            "is too narrow"
        )
    if output.finish_reason == "stop" and not isinstance(output.stop_reason, str):
        ids.pop()
    one.new_ids = ids
    one.sum_logprob = math.fsum(logprobs[: len(ids)])
    one.finish_reason = output.finish_reason


def named(error: TokenError, documents: Sequence[Document]) -> SoftTargetError:
    """The same complaint with the row of the request, the token in it and the text before."""
    at = error.token
    for document in documents:
        if at < len(document.wanted):
            break
        at -= len(document.wanted)
    token = int(document.wanted[at])
    return SoftTargetError(
        f"row {document.row} of the request, token {document.start + token}: {error.complaint}; "
        f"its text ends with token ids {document.token_ids[: token + 1][-8:]}"
    )


def _start(arguments: dict[str, Any]) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelError(
            f"teacher.engine: vllm: it cannot be imported on the teacher's node ({error}); install "
            "it there (docs/vllm.md), or choose `engine: transformers`"
        ) from error
    return LLM(**arguments)


def _encode_whole(
    logits_MV: torch.Tensor, documents: Sequence[Document], keys_M: torch.Tensor, spec: CodecSpec
) -> Encoded:
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels for one in documents)])
    return encode(logits_MV, torch.from_numpy(labels), keys_M, spec)


def _keys(rows: pa.Table, kept: list[int], spec: CodecSpec) -> torch.Tensor:
    """Where the draws of codec `sampled` come from; others do not look at them."""
    ids, offsets = flat(rows, "input_ids")
    texts = [ids[offsets[row] : offsets[row + 1]] for row in range(rows.num_rows)]
    return token_keys(texts, kept, spec.seed)


def _seconds(rows: pa.Table, start: float) -> pa.Array:
    """Each row's share of the time since `start`, by its tokens."""
    lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
    share = lengths / max(1, lengths.sum())
    return pa.array(((time.perf_counter() - start) * share).astype(np.float32))
