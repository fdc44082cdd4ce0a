"""Which positions of a token sequence are rows of a data set: one rule for harvest and splice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve.core.formats.manifest import TokenizationEntry
from saeserve.harvest.tokenizer import Tokens

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowRule:
    """A function of a sequence's own tokens, so that batch and padding cannot change it."""

    special_ids: tuple[int, ...] = ()
    """Tokens whose positions make no rows."""
    start: int = 0
    """Positions start:stop are rows, as in a Python slice; position 0 is the first token, BOS."""
    stop: int | None = None

    @classmethod
    def of(cls, tokenization: TokenizationEntry | None) -> RowRule:
        """The rule by which a data set was harvested; one without tokenization keeps all."""
        if tokenization is None:
            return cls()
        return cls(
            tokenization.special_token_ids or (),
            tokenization.position_start or 0,
            tokenization.position_stop,
        )

    @property
    def keeps_all(self) -> bool:
        """Every position but that of a BOS put in front is a row."""
        return self == EVERY_ROW

    def kept(self, tokens_T: Tokens, bos: bool) -> Kept:
        """bool [T] of one sequence without padding; `bos` says that it begins with a BOS that was
        put there, which is never a row."""
        kept_T = np.zeros(len(tokens_T), np.bool_)
        kept_T[self.start : self.stop] = True
        if bos:
            kept_T[:1] = False
        if self.special_ids:
            kept_T &= ~np.isin(tokens_T, self.special_ids)
        return kept_T


EVERY_ROW = RowRule()
