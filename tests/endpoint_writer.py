"""A reply for `endpoint_server`: writes given texts, and says what a model makes of each token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.endpoint_server import prompt_of


class Writer:
    """Answers as a server does that has the model; which text it writes is the test's.

    Args:
        directory: Model and tokenizer.
        text_of: From a prompt to what is written.
        as_ids: Names tokens by id, as vLLM does with `return_tokens_as_token_ids`.
        tells_end: Says what the model makes of the end of a turn too, as vLLM does.
    """

    def __init__(
        self,
        directory: Path,
        text_of: Callable[[str], str],
        *,
        as_ids: bool = False,
        tells_end: bool = False,
    ) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._text_of, self._as_ids, self._tells_end = text_of, as_ids, tells_end

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self._text_of(prompt_of(body))
        prompt, written, logprobs_TV = self.logprobs(body, text)
        if not self._tells_end:
            written = written[:-1]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(written)}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": text}
            if body.get("logprobs"):
                k = body.get("top_logprobs", 0)
                entries = [
                    self._entry(i, logprobs_V, k)
                    for i, logprobs_V in zip(written, logprobs_TV, strict=False)
                ]
                choice["logprobs"] = {"content": entries}
        else:
            choice["text"] = text
            if "logprobs" in body:
                choice["logprobs"] = self._columns(written, logprobs_TV, body["logprobs"])
        return {"choices": [choice], "usage": usage}

    @torch.inference_mode()
    def logprobs(
        self, body: dict[str, Any], text: str
    ) -> tuple[list[int], list[int], torch.Tensor]:
        """Ids of the prompt, those of the text with its end, and [T, V] of each place of these."""
        written = self._encode(text)
        if "messages" in body:
            prompt = self._encode(
                self.tokenizer.apply_chat_template(
                    body["messages"], tokenize=False, add_generation_prompt=True
                )
            )
            written.append(self.tokenizer.convert_tokens_to_ids("<|end|>"))
        else:
            prompt = self._encode(body["prompt"])
            written.append(self.tokenizer.eos_token_id)
        logits_TV = self.model(torch.tensor([prompt + written])).logits[0]
        return prompt, written, logits_TV[len(prompt) - 1 : -1].log_softmax(-1)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _entry(self, token_id: int, logprobs_V: torch.Tensor, k: int) -> dict[str, Any]:
        top = logprobs_V.topk(k)
        likely = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return {
            **self._named(token_id),
            "logprob": float(logprobs_V[token_id]),
            "top_logprobs": [{**self._named(i), "logprob": value} for i, value in likely],
        }

    def _columns(self, written: list[int], logprobs_TV: torch.Tensor, k: int) -> dict[str, Any]:
        entries = [
            self._entry(i, logprobs_V, k)
            for i, logprobs_V in zip(written, logprobs_TV, strict=False)
        ]
        return {
            "tokens": [one["token"] for one in entries],
            "token_logprobs": [one["logprob"] for one in entries],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in one["top_logprobs"]}
                for one in entries
            ],
        }

    def _named(self, token_id: int) -> dict[str, Any]:
        if self._as_ids:
            name = f"token_id:{token_id}"
            return {"token": name, "bytes": list(name.encode())}
        return {"token": self.tokenizer.decode([token_id]), "bytes": self._bytes(token_id)}

    def _bytes(self, token_id: int) -> list[int]:
        """Of the tests' byte-level tokenizer, by the alphabet of the library itself."""
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token_id in self.tokenizer.added_tokens_decoder:
            return list(token.encode())
        back = {character: byte for byte, character in bytes_to_unicode().items()}
        return [back[character] for character in token]
