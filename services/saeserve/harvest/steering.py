"""Forward passes in which rows of a site are moved, over whole sequences or on top of a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saeserve.core.export.steering import Change
from saeserve.errors import SpecError
from saeserve.harvest.language_model import LanguageModel, edited
from saeserve.harvest.places import Edit, Place
from saeserve.harvest.row_rule import RowRule

Move = Callable[[Tensor], Change]
"""From rows of the site that is read, float32 [N, d], to what moves those of the site written."""


@dataclass(frozen=True)
class Positions:
    """Positions start:stop of a sequence but BOS and special tokens: a function of the tokens up
    to each position, so that what is written later cannot change it."""

    start: int = 0
    stop: int | None = None
    special_ids: tuple[int, ...] = ()
    bos: bool = False

    def of(self, tokens: Sequence[int], first: int) -> Tensor:
        """bool [T]: which of these tokens, which begin at position `first`, are steered."""
        stop = None if self.stop is None else max(0, self.stop - first)
        rule = RowRule(self.special_ids, max(0, self.start - first), stop)
        return torch.as_tensor(rule.kept(np.asarray(tokens, np.int32), self.bos and first == 0))


@dataclass
class Intervention:
    """Moves rows of one site by what rows of a site (the same, or one before it) make of it."""

    read: Place
    written: Place
    move: Move
    positions: Positions
    changed: list[int] = field(default_factory=list[int])
    """Positions of the rows that the latest pass over a whole sequence, and those on top of its
    cache, have changed."""

    def edits(self, tokens: Sequence[int], first: int) -> list[tuple[Place, Edit]]:
        """The hooks of a pass over these tokens, which begin at position `first`."""
        if first == 0:
            self.changed = []
        mask_T, found = self.positions.of(tokens, first), list[Change]()

        def look(x_STD: Tensor) -> None:
            found[:] = [self.move(x_STD[0][mask_T.to(x_STD.device)].float())]
            numbers = mask_T.nonzero()[:, 0][found[0].changed_B.cpu()] + first
            self.changed += [int(number) for number in numbers]

        def put(y_STD: Tensor) -> Tensor:
            if not found:
                raise SpecError(
                    "model",
                    "the language model computes the site that is written before the one read",
                    remedy="name a transcoder whose target comes after its input",
                )
            return _moved(y_STD, mask_T, found[0])

        def both(x_STD: Tensor) -> Tensor:
            look(x_STD)
            return put(x_STD)

        if self.read == self.written:
            return [(self.read, both)]
        return [(self.read, look), (self.written, put)]


def _moved(y_STD: Tensor, mask_T: Tensor, by: Change) -> Tensor:
    places = mask_T.nonzero()[:, 0].to(y_STD.device)
    old_ND = y_STD[0, places]
    new_ND = old_ND + by.delta_BO.to(old_ND)
    new_STD = y_STD.clone()
    new_STD[0, places] = torch.where(by.changed_B.to(y_STD.device)[:, None], new_ND, old_ND)
    return new_STD


@dataclass
class Growing:
    """One sequence that grows: its passes, with or without a cache of keys and values."""

    model: LanguageModel
    intervention: Intervention | None
    cached: bool
    tokens: list[int] = field(default_factory=list[int])
    _cache: Any = None
    _seen: int = 0

    @torch.no_grad()
    def logits(self, more: Sequence[int]) -> Tensor:
        """Append tokens; logits [T, vocabulary] of the positions that this pass computes, of which
        the last is the sequence's last. Without a cache those are all positions."""
        self.tokens += more
        if self._cache is None:
            self._seen = 0
        part = self.tokens[self._seen :]
        edits = [] if self.intervention is None else self.intervention.edits(part, self._seen)
        ids_ST = torch.tensor([part], device=self.model.device)
        with edited(edits, ids_ST.shape):
            output = self.model.model(input_ids=ids_ST, use_cache=self.cached, **self._with_cache())
        # Models that keep another kind of state are run over the whole sequence each time.
        self._cache = getattr(output, "past_key_values", None) if self.cached else None
        self._seen = len(self.tokens)
        return output.logits[0]

    def _with_cache(self) -> dict[str, Any]:
        return {} if self._cache is None else {"past_key_values": self._cache}


def logits_of(
    model: LanguageModel, tokens: Sequence[int], intervention: Intervention | None
) -> Tensor:
    """Logits [T, vocabulary] of a whole sequence."""
    return Growing(model, intervention, cached=False).logits(tokens)
