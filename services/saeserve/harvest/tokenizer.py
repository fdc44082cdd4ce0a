"""The few things that a harvest asks of a tokenizer, typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from saeserve.errors import SpecError

Tokens = npt.NDArray[np.int32]


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self._inner = cast("Any", inner)

    def ids(self, text: str) -> Tokens:
        """The text's tokens alone; names of special tokens in it are read as plain text."""
        encoded = self._inner(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return np.asarray(encoded["input_ids"], dtype=np.int32)

    def conversation(self, messages: Sequence[Mapping[str, object]], bos: int | None) -> Tokens:
        """The messages in the tokenizer's chat template; without the template's own `bos` in
        front, which is put before every sequence.

        Raises SpecError where there is no template or it does not take these messages.
        """
        try:
            ids = self._inner.apply_chat_template(list(messages), return_dict=False)
        except (ValueError, TypeError, KeyError, TemplateError) as error:
            raise SpecError(
                "harvest.texts.format",
                f"the tokenizer's chat template does not take the messages: {error}",
                remedy="use a model with a chat template and its roles, or format = jsonl",
            ) from error
        tokens = np.asarray(ids, dtype=np.int32)
        return tokens[1:] if bos is not None and len(tokens) and tokens[0] == bos else tokens

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return len(self._inner)

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens' text, special tokens by name."""
        ids = [int(token) for token in tokens]
        return str(self._inner.decode(ids, clean_up_tokenization_spaces=False))

    def bos(self, policy: str) -> int | None:
        """The token put before every sequence under `policy`: prepend, none, or model, which does
        what the tokenizer does by itself.

        Raises SpecError where one is to be put but the tokenizer has none.
        """
        if policy == "none" or (policy == "model" and not self._begins_with_bos()):
            return None
        token: object = self._inner.bos_token_id
        if not isinstance(token, int):
            raise SpecError(
                "harvest.bos",
                "the model's tokenizer has no beginning-of-sequence token",
                remedy="set bos = none",
            )
        return token

    def _begins_with_bos(self) -> bool:
        ids: list[int] = self._inner("a", verbose=False)["input_ids"]
        return bool(ids) and ids[0] == self._inner.bos_token_id

    def eos(self) -> int:
        """The token that ends a document. Raises SpecError where the tokenizer has none."""
        token: object = self._inner.eos_token_id
        if not isinstance(token, int):
            raise SpecError(
                "harvest.packing",
                "the model's tokenizer has no end-of-sequence token to put between documents",
                remedy="set packing = none",
            )
        return token

    def ends(self) -> frozenset[int]:
        """The token that ends a document, where the tokenizer has one."""
        token: object = self._inner.eos_token_id
        return frozenset([token] if isinstance(token, int) else [])

    def special_ids(self) -> tuple[int, ...]:
        """All tokens that the tokenizer marks as special, in ascending order."""
        marked = {int(i) for i, token in self._inner.added_tokens_decoder.items() if token.special}
        return tuple(sorted(marked | {int(i) for i in self._inner.all_special_ids}))
