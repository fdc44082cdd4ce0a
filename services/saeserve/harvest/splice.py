"""Replaces what stands at sites during forward passes and measures what that costs.

A batch of tokens is run once as it is. That pass yields the rows of every site, the distributions
that others are compared with, and what the layers below the sites return: passes with replaced rows
begin above these. Where a model does not come to the same logits in that way, they begin at the
bottom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.evaluation.arms import Begun, Nats, Replace
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError
from saeserve.harvest.language_model import LanguageModel, edited
from saeserve.harvest.nats import CleanNats, clean_nats, spliced_nats
from saeserve.harvest.places import Edit
from saeserve.harvest.row_rule import EVERY_ROW, RowRule
from saeserve.harvest.sequences import PAD
from saeserve.harvest.shortcut import kept, skipped, unchanged


@dataclass(frozen=True)
class Between:
    """The sites that a transcoder or crosscoder reads and those that it writes."""

    reads: tuple[SiteSpec, ...]
    writes: tuple[SiteSpec, ...]

    @classmethod
    def of(cls, sites: SiteSpec | Between) -> Between:
        """An autoencoder reads and writes one site."""
        return sites if isinstance(sites, Between) else cls((sites,), (sites,))

    @property
    def columns(self) -> tuple[SiteSpec, ...]:
        """The sites side by side, each once, as in the rows of a data set."""
        return self.reads if self.reads == self.writes else self.reads + self.writes


@dataclass(frozen=True)
class _Clean:
    """A pass without replacements."""

    tokens_ST: Tensor
    rows_ST: Tensor
    columns: Mapping[str, Tensor]
    """By source name, float32 [S, T, d]."""
    below: Mapping[int, object]
    """What the first so many layers return."""
    nats: CleanNats


class Splicer:
    """Splices at several places of one language model, in passes over the same tokens."""

    def __init__(
        self,
        model: LanguageModel,
        sites: Sequence[SiteSpec | Between],
        bos: bool,
        rule: RowRule = EVERY_ROW,
    ) -> None:
        """`bos`: sequences begin with a BOS token, which is never replaced; nor are positions that
        `rule` leaves out. Raises SpecError for sites that the model does not have."""
        self._model = model
        self._sites = [Between.of(each) for each in sites]
        self._places = {
            site.source: (site, model.place(site)) for each in self._sites for site in each.columns
        }
        self._bos, self._rule = bos, rule
        self._skips: list[int] | None = None

    def begin(self, tokens_ST: Tensor) -> list[Begun]:
        """Make the clean pass over tokens int64 [S, T]; one begun batch for each of the sites."""
        if self._skips is None:
            self._skips = [self._skip(each, tokens_ST[:1]) for each in self._sites]
        logits_STV, columns, below = self._clean(tokens_ST, self._skips)
        clean = _Clean(
            tokens_ST,
            row_mask(tokens_ST, self._bos, self._rule),
            columns,
            below,
            clean_nats(logits_STV, tokens_ST),
        )
        return [
            _Place(self._model, sites, clean, skip).begun()
            for sites, skip in zip(self._sites, self._skips, strict=True)
        ]

    def _clean(
        self, tokens_ST: Tensor, skips: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor], dict[int, object]]:
        columns: dict[str, Tensor] = {}

        def keep(source: str) -> Edit:
            def edit(x_STD: Tensor) -> None:
                # A copy: what follows in the layer may change the tensor in place.
                columns[source] = x_STD.detach().to(torch.float32, copy=True)

            return edit

        edits = [(place, keep(source)) for source, (_, place) in self._places.items()]
        with ExitStack() as stack:
            below = stack.enter_context(kept(self._model.model, sorted(set(skips))))
            stack.enter_context(edited(edits, tokens_ST.shape))
            return self._model.forward(tokens_ST), columns, below

    def _skip(self, sites: Between, tokens_ST: Tensor) -> int:
        """How many layers need not be run again; none where a pass without them differs."""
        count = unchanged(sites.writes)
        logits_STV, _, below = self._clean(tokens_ST, [count])
        with skipped(self._model.model, count, below.get(count)):
            again_STV = self._model.forward(tokens_ST)
        return count if torch.equal(logits_STV, again_STV) else 0


@dataclass(frozen=True)
class _Place:
    """A batch at one of the places."""

    model: LanguageModel
    sites: Between
    clean: _Clean
    skip: int

    def begun(self) -> Begun:
        """What evaluations see of it."""
        predicted_ST = self.clean.tokens_ST[:, 1:] != PAD
        sequence_P, before_P = predicted_ST.cpu().nonzero(as_tuple=True)
        return Begun(self.clean.nats.ce_P, sequence_P, before_P + 1, self.run)

    def run(self, replace: Replace) -> Nats:
        """A pass in which what `replace` makes of the rows stands in for those that are written.

        It gets the columns of the clean pass at all positions that are rows, float32 [N, C] in
        sequence order, and returns [N, d_out]; other positions stay as they are. Raises DataError
        for replacements of another shape.
        """
        edits = [
            (self.model.place(site), _putting(new_STD))
            for site, new_STD in zip(self.sites.writes, self._replaced(replace), strict=True)
        ]
        with ExitStack() as stack:
            output = self.clean.below.get(self.skip)
            stack.enter_context(skipped(self.model.model, self.skip, output))
            stack.enter_context(edited(edits, self.clean.tokens_ST.shape))
            logits_STV = self.model.forward(self.clean.tokens_ST)
        return spliced_nats(logits_STV, self.clean.nats)

    def _replaced(self, replace: Replace) -> list[Tensor]:
        """Values of each site that is written."""
        columns = [self.clean.columns[site.source] for site in self.sites.columns]
        written = [self.clean.columns[site.source] for site in self.sites.writes]
        mask_ST = self.clean.rows_ST.to(columns[0].device)
        new_NO = replace(torch.cat([x_STD[mask_ST] for x_STD in columns], dim=1))
        shape = [int(mask_ST.sum()), sum(x_STD.shape[-1] for x_STD in written)]
        if list(new_NO.shape) != shape:
            raise DataError(
                f"the replacement has shape {list(new_NO.shape)}, the site {shape}",
                remedy="evaluate a model whose output width is the site's",
            )
        parts = torch.split(new_NO, [x_STD.shape[-1] for x_STD in written], dim=1)
        return [_put(x_STD, mask_ST, part) for x_STD, part in zip(written, parts, strict=True)]


def _put(old_STD: Tensor, mask_ST: Tensor, new_ND: Tensor) -> Tensor:
    values_STD = old_STD.clone()
    values_STD[mask_ST] = new_ND.to(values_STD)
    return values_STD


def _putting(values_STD: Tensor) -> Edit:
    """Puts these values in the place of a site's."""

    def edit(old_STD: Tensor) -> Tensor:
        return values_STD.to(old_STD)

    return edit


def row_mask(tokens_ST: Tensor, bos: bool, rule: RowRule = EVERY_ROW) -> Tensor:
    """bool [S, T]: positions that are rows of a data set by `rule`, neither BOS nor padding."""
    rows_ST = tokens_ST != PAD
    for row, tokens_T in enumerate(tokens_ST.cpu().numpy()):
        length = int(rows_ST[row].sum())
        kept_T = rule.kept(tokens_T[:length], bos)
        rows_ST[row, :length] = torch.as_tensor(kept_T, device=rows_ST.device)
    return rows_ST
