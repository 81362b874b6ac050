"""What every model reference in a job file has in common."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from raykd.config.section import Section

Device = Literal["cpu", "gpu"]
Dtype = Literal["bf16", "fp32"]
COMMIT: Final = re.compile("[0-9a-f]{40}")


class ModelConfig(Section):
    """A causal language model and its tokenizer."""

    model: str = Field(
        description="A directory, a hub name, or `package:NAME[/inside/path]` for weights that an "
        "installed Python package carries."
    )
    gguf_file: str | None = Field(
        None, description="The GGUF file inside `model`; converted to safetensors once."
    )
    revision: str | None = Field(None, description="Hub only: the commit to pin.")
    trust_remote_code: bool = Field(
        False, description="Run code that comes with the model. Needs a pinned `revision`."
    )

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.trust_remote_code and not COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                "`trust_remote_code: true` runs foreign code: pin its `revision` to a commit (40 "
                "hexadecimal digits); a branch or a tag can be moved"
            )
        return self
