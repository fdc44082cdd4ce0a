"""The entries of [B, F] that are unlike the rest: by row, and by latent.

Nearly all entries of a JumpReLU batch are silent, and on the same side of the band's lower edge. An
interval says where those usual ones are; what is outside is listed with its exact pre-activation.
After a low-precision GEMM everything that is not surely inside is listed, and computed again: so
the lists, and all that follows from them, are those of exact pre-activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import Array, array
from saeserve.core.kernels.jumprelu import by_latent, by_row, scanning
from saeserve.core.kernels.jumprelu.encoding import Block, Encoder

BLOCKED_ABOVE = 1 / 64
"""Share of listed entries above which weights are worth keeping in the cache."""
BLOCK = 256
"""Latents whose weights are kept."""
CHUNKS = 16
"""Parts of the rows that are sorted side by side."""


@dataclass(frozen=True)
class Interval:
    """Usual entries lie strictly between, levels [F]; `in_band` says on which side of the band's
    lower edge they are: 1 in it, 0 below."""

    low_F: Tensor
    high_F: Tensor
    in_band: float


@dataclass(frozen=True)
class ByRow:
    """Entries outside an interval, in ascending order of row and latent; h is exact."""

    interval: Interval
    offsets_B1: Tensor
    latents_N: Tensor
    h_N: Tensor
    latents: int

    @property
    def blocked(self) -> bool:
        """Whether there are enough of them to go through weights block by block."""
        rows = self.offsets_B1.numel() - 1
        return self.h_N.numel() > BLOCKED_ABOVE * rows * self.latents

    def decode_onto(self, y_BO: Tensor, W_FO: Tensor, threshold_F: Tensor) -> None:
        """y += f W, where f is h above the threshold, else 0."""
        by_row.decode_onto(
            array(y_BO), array(W_FO), array(threshold_F), *self._arrays(), self._block()
        )

    def make_exact(self, encoder: Encoder) -> None:
        """Compute h again, in the parameters' type."""
        layer = (array(encoder.x_BD), array(encoder.W_FD), array(encoder.b_F))
        by_row.exact_values(*layer, *self._arrays(), self._block())

    def _arrays(self) -> tuple[Array, Array, Array]:
        return array(self.offsets_B1), array(self.latents_N), array(self.h_N)

    def _block(self) -> int:
        return BLOCK if self.blocked else self.latents


@dataclass(frozen=True)
class ByLatent:
    """The same entries in ascending order of latent and row; those of latent i stand at
    starts[i] .. starts[i + 1]."""

    starts_F1: Tensor
    rows_N: Tensor
    h_N: Tensor


def shares_outside(encoder: Encoder, intervals: Sequence[Interval]) -> list[float]:
    """The share of entries outside each interval, judged by the first block of rows."""
    block = next(encoder.blocks())
    return [
        float(_Lister(encoder, interval).counts(block).sum()) / block.h_RF.numel()
        for interval in intervals
    ]


def list_outside(encoder: Encoder, interval: Interval, most: float) -> ByRow | None:
    """The entries outside the interval; None where they are more than the share `most` of all."""
    latents, lister = encoder.W_FD.shape[0], _Lister(encoder, interval)
    for block in encoder.blocks():
        lister.add(block)
        if lister.listed > most * latents * block.last:
            return None
    found = lister.result(latents)
    if not encoder.exact:
        found.make_exact(encoder)
    return found


def sort_by_latent(found: ByRow) -> ByLatent:
    """A counting sort, by chunks of rows."""
    chunk = -(-(found.offsets_B1.numel() - 1) // CHUNKS)
    places = (array(found.offsets_B1), array(found.latents_N))
    counts_FC = torch.zeros(found.latents, CHUNKS, dtype=torch.int64)
    by_latent.count_by_latent(*places, array(counts_FC), chunk)
    starts_P1 = counts_FC.new_zeros(counts_FC.numel() + 1)
    torch.cumsum(counts_FC.view(-1), 0, out=starts_P1[1:])
    starts_F1 = starts_P1[::CHUNKS].contiguous()
    places_FC = starts_P1[:-1].view_as(counts_FC)
    rows_N, h_N = torch.empty_like(found.latents_N), torch.empty_like(found.h_N)
    by_latent.sort_by_latent(
        *places, array(found.h_N), array(places_FC), chunk, array(rows_N), array(h_N)
    )
    return ByLatent(starts_F1, rows_N, h_N)


class _Lister:
    """Collects the entries of block after block that are outside one interval."""

    def __init__(self, encoder: Encoder, interval: Interval) -> None:
        self.interval = interval
        self.listed = 0
        self._levels = (*encoder.levels(interval.low_F, interval.high_F), encoder.slack_F)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def counts(self, block: Block) -> Tensor:
        """Entries outside, for each row of the block."""
        counts_R = torch.empty(block.h_RF.shape[0], dtype=torch.int64)
        scanning.count_outside(*self._arguments(block), array(counts_R))
        return counts_R

    def add(self, block: Block) -> None:
        """List the block's entries."""
        counts_R = self.counts(block)
        offsets_R1 = torch.zeros(counts_R.numel() + 1, dtype=torch.int64)
        torch.cumsum(counts_R, 0, out=offsets_R1[1:])
        found = int(offsets_R1[-1])
        latents_N, h_N = torch.empty(found, dtype=torch.int32), block.h_RF.new_empty(found)
        scanning.list_outside(
            *self._arguments(block), array(offsets_R1), array(latents_N), array(h_N)
        )
        self._parts.append((counts_R, latents_N, h_N))
        self.listed += found

    def result(self, latents: int) -> ByRow:
        """Everything that was added."""
        counts_B, latents_N, h_N = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        offsets_B1 = counts_B.new_zeros(counts_B.numel() + 1)
        torch.cumsum(counts_B, 0, out=offsets_B1[1:])
        return ByRow(self.interval, offsets_B1, latents_N, h_N, latents)

    def _arguments(self, block: Block) -> tuple[Array, Array, Array, Array, Array]:
        low_F, high_F, slack_F = self._levels
        h_RF, scale_R = block.h_RF, block.scale_R
        return array(h_RF), array(low_F), array(high_F), array(slack_F), array(scale_R)
