"""Pre-activations of a micro-batch and the exact choice of the largest, outside any graph.

After a GEMM in bfloat16 the choice is still that of the parameters' type: candidates are computed
again in it, and whatever else could be among the largest by `rounding`'s bound is too. Values that
differ by less than the parameters' type resolves may change places, as in any of its GEMMs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures.active.batch_selection import rows_at_once, top_entries
from saeserve.core.architectures.active.entries import dots
from saeserve.core.architectures.active.latents import row_dots
from saeserve.core.gpu.device import accelerates
from saeserve.core.kernels import rounding
from saeserve.core.kernels.encoder import ROWS
from saeserve.core.kernels.ranks import SPARE
from saeserve.core.kernels.rounding import Errors, Rounded


@dataclass(frozen=True)
class BatchTop:
    """Entries chosen from a micro-batch, in ascending order of row and latent."""

    values_N: Tensor
    rows_N: Tensor
    latents_N: Tensor
    level: Tensor
    """Scalar that parts kept entries from the others."""

    @classmethod
    def at(cls, places_N: Tensor, latents: int, values_N: Tensor, level: Tensor) -> BatchTop:
        """Entries at places of the flattened [B, F]."""
        return cls(values_N, places_N // latents, places_N % latents, level)


@dataclass(frozen=True)
class PreActivations:
    """h = x W^T + b in the type of the encoder GEMM, and what is needed to compute it exactly."""

    x_BD: Tensor
    W_FD: Tensor
    b_F: Tensor
    h_BF: Tensor

    @classmethod
    def compute(cls, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> PreActivations:
        """One GEMM in `dtype`; `x_BD` is centred already, for rounding comes after centring.

        float32 stands for the parameters' own type.
        """
        low = W_FD.dtype if dtype == torch.float32 else dtype
        with torch.no_grad():
            h_BF = torch.addmm(b_F.to(low), x_BD.to(low), W_FD.to(low).T)
        return cls(x_BD.detach(), W_FD.detach(), b_F.detach(), h_BF)

    def top(self, n: int, among_F: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values and indices [B, n] of each row's n largest, in descending order; of equals
        the lower index.

        `among_F` bool [F] restricts the choice; where it leaves fewer than n, values are -inf.
        """
        low = self.h_BF.dtype != self.W_FD.dtype
        errors_B = self._errors().largest() if low else None
        found = [self._top_of(rows, n, among_F, errors_B) for rows in self._blocks()]
        if len(found) == 1:
            return found[0]
        return torch.cat([values for values, _ in found]), torch.cat([at for _, at in found])

    def _top_of(
        self, rows: slice, n: int, among_F: Tensor | None, errors_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`top` of some rows; `errors_B` bounds the errors of all, where h is rounded."""
        h_BF, x_BD = _among(self.h_BF[rows], among_F), self.x_BD[rows]
        if errors_B is None:
            return largest_first(h_BF, n)
        # So many that few rows have to be computed again as a whole.
        few = min(2 * n + SPARE, h_BF.shape[1])
        rough_BC, candidates_BC = h_BF.topk(few, dim=1)
        last_B = rough_BC[:, -1].to(x_BD.dtype)
        # Ascending, so that among equals the lower latent stands first.
        candidates_BC = candidates_BC.sort(dim=1).values
        exact_BC = row_dots(x_BD, candidates_BC, self.W_FD) + self.b_F[candidates_BC]
        exact_BC = exact_BC.masked_fill(h_BF.gather(1, candidates_BC) == -torch.inf, -torch.inf)
        values_BK, places_BK = largest_first(exact_BC, n)
        chosen = values_BK, candidates_BC.gather(1, places_BK)
        if few < h_BF.shape[1]:
            left_B = rounding.highest(last_B, errors_B[rows])
            proven_B = (last_B == -torch.inf) | (left_B < values_BK[:, -1])
            self._settle(x_BD, *chosen, proven_B, among_F)
        return chosen

    def top_of_batch(self, n: int) -> BatchTop:
        """The n largest positive entries of the whole micro-batch; see `batch_selection`."""
        flat_M, latents = self.h_BF.flatten(), self.h_BF.shape[1]
        if flat_M.dtype == self.W_FD.dtype:
            chosen = top_entries(flat_M, n)
            return BatchTop.at(chosen.places_N, latents, flat_M[chosen.places_N], chosen.level)
        # Of any n + 1 the least is a level that the largest n + 1 reach, the last of which is left.
        exact_N = self._exact(top_entries(flat_M, n + 1).places_N)
        lowest = exact_N.amin().clamp_min(0) if exact_N.numel() > n else exact_N.new_zeros(())
        possible_C = self._reaching(lowest)
        exact_C = self._exact(possible_C)
        chosen = top_entries(exact_C, n)
        places_N = possible_C[chosen.places_N]
        return BatchTop.at(places_N, latents, exact_C[chosen.places_N], chosen.level)

    def _errors(self) -> Errors:
        factors = Rounded.of(self.x_BD), Rounded.of(self.W_FD)
        return Errors.of(*factors, self.b_F, self.b_F.to(self.h_BF.dtype))

    def _blocks(self, most: int | None = None) -> list[slice]:
        """All rows, so many at a time that no count of their entries passes 32 bits."""
        rows, latents = self.h_BF.shape
        size = min(most or rows, rows_at_once(latents))
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _settle(
        self,
        x_BD: Tensor,
        values_BK: Tensor,
        indices_BK: Tensor,
        proven_B: Tensor,
        among_F: Tensor | None,
    ) -> None:
        """Choose again, from pre-activations in the parameters' type, in rows without a proof that
        no other latent reaches the last chosen one. An accelerator is waited for here."""
        open_N = (~proven_B).nonzero().squeeze(1)
        # ROWS at a time, which bounds the memory that it takes.
        size = min(ROWS, rows_at_once(self.W_FD.shape[0]))
        for start in range(0, open_N.numel(), size):
            rows_R = open_N[start : start + size]
            exact_RF = torch.addmm(self.b_F, x_BD[rows_R], self.W_FD.T)
            values_BK[rows_R], indices_BK[rows_R] = largest_first(
                _among(exact_RF, among_F), values_BK.shape[1]
            )

    def _exact(self, places_N: Tensor) -> Tensor:
        """Pre-activations at ascending places of the flattened [B, F] in the parameters' type."""
        size = rows_at_once(1)
        starts = range(size, places_N.numel(), size)
        found = [self._exact_part(places_N[start : start + size]) for start in (0, *starts)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _exact_part(self, places_N: Tensor) -> Tensor:
        latents = self.h_BF.shape[1]
        rows_N, latents_N = places_N // latents, places_N % latents
        return dots(self.x_BD, rows_N, latents_N, self.W_FD) + self.b_F[latents_N]

    def _reaching(self, level: Tensor) -> Tensor:
        """Ascending places of all entries that may be `level` or more, and of all NaN."""
        lowest_B = rounding.lowest_rounded(level - self._errors().largest(), self.h_BF.dtype)
        # After a divergence NaN alone is listed, not everything.
        lowest_B = lowest_B.nan_to_num(torch.inf, torch.inf, -torch.inf).to(self.h_BF.dtype)
        lowest_B1 = torch.nextafter(lowest_B, lowest_B.new_full((), -torch.inf))[:, None]
        found: list[Tensor] = []
        for rows in self._blocks(ROWS):
            below_RF = self.h_BF[rows] < lowest_B1[rows]
            first = rows.start * self.h_BF.shape[1]
            found.append((~below_RF).flatten().nonzero().squeeze(1) + first)
        return torch.cat(found)


def _among(h_BF: Tensor, among_F: Tensor | None) -> Tensor:
    """-inf in all other latents."""
    return h_BF if among_F is None else h_BF.masked_fill(~among_F, -torch.inf)


def largest_first(h_BF: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the n largest in descending order; among equals the lower column wins,
    except on an accelerator, where looking for equals would stall the step."""
    values_BK, columns_BK = h_BF.topk(min(n + 1, h_BF.shape[1]), dim=1)
    if not accelerates(h_BF.device):
        tied_B = (values_BK[:, 1:] == values_BK[:, :-1]).any(dim=1)
        settled = h_BF[tied_B].sort(dim=1, descending=True, stable=True).indices
        columns_BK[tied_B] = settled[:, : columns_BK.shape[1]]
    return values_BK[:, :n], columns_BK[:, :n]
