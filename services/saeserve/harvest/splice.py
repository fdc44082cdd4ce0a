"""Replaces a site's activations during a forward pass and measures what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from saeserve.core.evaluation.loss_recovered import Compare, Compared
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError
from saeserve.harvest.places import Edit
from saeserve.harvest.row_rule import EVERY_ROW, RowRule
from saeserve.harvest.sequences import PAD

Replace = Callable[[Tensor], Tensor]
Splice = Callable[[Tensor, Replace | None], Tensor]
KL_POSITIONS = 64
"""Positions whose KL divergence is computed at a time."""
Run = Callable[[Tensor, Edit | None], Tensor]
"""A forward pass over tokens [S, T], whose edit gets the values [S, T, C] of all sites that are
read and returns those of the sites that are written; returns logits [S, T, V]."""


@dataclass(frozen=True)
class Between:
    """The sites that a transcoder or crosscoder reads and those that it writes."""

    reads: tuple[SiteSpec, ...]
    writes: tuple[SiteSpec, ...]

    @property
    def columns(self) -> tuple[SiteSpec, ...]:
        """The sites side by side, each once, as in the rows of a data set."""
        return self.reads if self.reads == self.writes else self.reads + self.writes


def putting(values_STD: Tensor) -> Edit:
    """Puts these values in the place of a site's."""

    def edit(old_STD: Tensor) -> Tensor:
        return values_STD.to(old_STD)

    return edit


def make_splice(run: Run, bos: bool, written: int = 0, rule: RowRule = EVERY_ROW) -> Splice:
    """A function (tokens_ST, replace) -> cross-entropy in nats of each predicted token, [P].

    `replace` gets the columns that `run` gives to an edit, at all positions that are rows by
    `rule`, float32 [N, C] in sequence order, and returns what stands in for those from `written`
    on; other positions stay as they are, and None leaves all. Every token but a sequence's first is
    predicted, wherever rows are; the result is float32 on the CPU, in order.
    """

    def splice(tokens_ST: Tensor, replace: Replace | None) -> Tensor:
        rows_ST = row_mask(tokens_ST, bos, rule)
        hook = None if replace is None else _replacing(rows_ST, replace, written)
        return _cross_entropy(run(tokens_ST, hook), tokens_ST)

    return splice


def make_compare(run: Run, bos: bool, written: int = 0, rule: RowRule = EVERY_ROW) -> Compare:
    """A function (tokens_ST, replace) -> both cross-entropies and KL(clean || spliced), [P] each.

    As `make_splice`, of a clean and a spliced pass, whose logits are in memory together.
    """

    def compare(tokens_ST: Tensor, replace: Replace) -> Compared:
        rows_ST = row_mask(tokens_ST, bos, rule)
        clean_STV = run(tokens_ST, None)
        spliced_STV = run(tokens_ST, _replacing(rows_ST, replace, written))
        return Compared(
            clean_P=_cross_entropy(clean_STV, tokens_ST),
            spliced_P=_cross_entropy(spliced_STV, tokens_ST),
            kl_P=_divergence(clean_STV, spliced_STV, tokens_ST),
        )

    return compare


def kl_divergence(clean_PV: Tensor, spliced_PV: Tensor) -> Tensor:
    """KL(clean || spliced) of the distributions that these logits [P, V] give, float64 [P].

    What the clean distribution rules out (logits of -inf, or as good as that) adds nothing,
    whatever the other makes of it. Never negative; NaN where logits are.
    """
    log_p_PV = functional.log_softmax(clean_PV.double(), dim=-1)
    log_q_PV = functional.log_softmax(spliced_PV.double(), dim=-1)
    p_PV = log_p_PV.exp()
    terms_PV = torch.where(p_PV == 0, 0.0, p_PV * (log_p_PV - log_q_PV))
    return terms_PV.sum(dim=-1).clamp_min(0)


def row_mask(tokens_ST: Tensor, bos: bool, rule: RowRule = EVERY_ROW) -> Tensor:
    """bool [S, T]: positions that are rows of a data set by `rule`, neither BOS nor padding."""
    rows_ST = tokens_ST != PAD
    for row, tokens_T in enumerate(tokens_ST.cpu().numpy()):
        length = int(rows_ST[row].sum())
        kept_T = rule.kept(tokens_T[:length], bos)
        rows_ST[row, :length] = torch.as_tensor(kept_T, device=rows_ST.device)
    return rows_ST


def _replacing(rows_ST: Tensor, replace: Replace, written: int) -> Edit:
    def edit(columns_STC: Tensor) -> Tensor:
        mask_ST = rows_ST.to(columns_STC.device)
        old_NC = columns_STC[mask_ST]
        new_NO = replace(old_NC.float())
        shape = [len(old_NC), old_NC.shape[1] - written]
        if list(new_NO.shape) != shape:
            raise DataError(
                f"the replacement has shape {list(new_NO.shape)}, the site {shape}",
                remedy="evaluate a model whose output width is the site's",
            )
        new_STO = columns_STC[..., written:].clone()
        new_STO[mask_ST] = new_NO.to(columns_STC)
        return new_STO

    return edit


def _cross_entropy(logits_STV: Tensor, tokens_ST: Tensor) -> Tensor:
    """One sequence at a time: float32 log-probabilities of a whole batch would not fit."""
    parts: list[Tensor] = []
    for logits_TV, tokens_T in zip(logits_STV, tokens_ST.to(logits_STV.device), strict=True):
        targets_P = tokens_T[1:][tokens_T[1:] != PAD]
        nats_P = functional.cross_entropy(
            logits_TV[: len(targets_P)].float(), targets_P, reduction="none"
        )
        parts.append(nats_P.cpu())
    return torch.cat(parts)


def _divergence(clean_STV: Tensor, spliced_STV: Tensor, tokens_ST: Tensor) -> Tensor:
    """KL divergence of each predicted token, by few positions: float64 of all would not fit."""
    parts: list[Tensor] = []
    for clean_TV, spliced_TV, tokens_T in zip(clean_STV, spliced_STV, tokens_ST, strict=True):
        predicted = int((tokens_T[1:] != PAD).sum())
        for start in range(0, predicted, KL_POSITIONS):
            rows = slice(start, min(start + KL_POSITIONS, predicted))
            parts.append(kl_divergence(clean_TV[rows], spliced_TV[rows]).float().cpu())
    return torch.cat(parts) if parts else torch.zeros(0)
