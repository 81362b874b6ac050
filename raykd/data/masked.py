"""From texts to token ids and the tokens that a masked language model has to fill in.

Masks are drawn once, before training: which tokens of a document are masked is a pure function of
(seed, document, copy).

Shapes: T tokens of one row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from raykd.config.corpus import DataConfig
from raykd.data.documents import BadRecords, Document, LabelledText
from raykd.data.labelled import LabelledTokenizer, LabelSpec, label_facts
from raykd.data.order import Words, mix
from raykd.data.tokenize import TokenizedDocument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SALT: Final = np.uint64(0x4D41534B)


@dataclass(frozen=True)
class MaskingSpec:
    """Which tokens are masked.

    Attributes:
        fraction: Share of the tokens that are no special tokens, in (0, 1).
        maskings: Times that each document is prepared, each with masks of its own.
        seed: The job's.
    """

    fraction: float
    maskings: int
    seed: int


Taught = LabelSpec | MaskingSpec
"""What a classifier's rows are made for."""


def taught_facts(spec: Taught | None) -> dict[str, Any]:
    """What prepared rows of a classifier depend on beside the text."""
    return {"masked": asdict(spec)} if isinstance(spec, MaskingSpec) else label_facts(spec)


def masked_tokens(
    may_T: npt.NDArray[np.bool_], spec: MaskingSpec, document: int, copy: int
) -> npt.NDArray[np.uint8]:
    """1 for each token to fill in [T]: each by a draw of its own, at least one where any may be.

    Args:
        may_T: Whether a token may be masked.
        spec: How many are, on average.
        document: Its number in the corpus.
        copy: Which preparation of it.
    """
    key: Words = np.array([spec.seed], np.uint64) ^ _SALT
    for number in (document, copy):
        key = mix(key + np.uint64(number))
    places_T: Words = np.arange(len(may_T), dtype=np.uint64)
    words_T = mix(places_T + key)
    draw_T = np.where(may_T, (words_T >> np.uint64(11)) / 2.0**53, 2.0)
    masked_T = draw_T < spec.fraction
    if may_T.any() and not masked_T.any():
        masked_T[draw_T.argmin()] = True
    return masked_T.astype(np.uint8)


class MaskedTokenizer(LabelledTokenizer):
    """Tokenizes texts as their encoder reads them, and says which tokens are masked."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        spec: MaskingSpec,
        data: DataConfig,
        bad_records: BadRecords,
    ) -> None:
        """Take the tokenizer.

        Raises:
            CorpusError: It is none of an encoder.
        """
        super().__init__(tokenizer, LabelSpec("masked"), data, bad_records)
        self._masking = spec
        self._special_ids = np.array(self._tokenizer.all_special_ids, np.int64)

    def _rows(self, document: Document, content: LabelledText) -> list[TokenizedDocument]:
        ids, cut = self._encoded(document, content.text, content.pair)
        ids_T = np.asarray(ids, np.int32)
        may_T = ~np.isin(ids_T, self._special_ids)
        return [
            TokenizedDocument(
                document.index,
                document.place,
                ids_T,
                masked_tokens(may_T, self._masking, document.index, copy),
                None,
                cut,
            )
            for copy in range(self._masking.maskings)
        ]
