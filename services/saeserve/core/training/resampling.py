"""Resampling of dead latents (Bricken et al. 2023, Towards Monosemanticity, appendix A.6).

A dead latent takes the direction of a row that is reconstructed badly: rows are drawn with
probability proportional to the square of their loss. Its decoder row is that of the target at the
mean norm of the live ones (unit rows stay unit), its encoder row that of the input at `fraction` of
the live ones' mean norm, both measured from the biases that the source subtracts; its biases are 0
(an encoder that does not subtract b_dec gets what subtracting it would add), and its moments start
again. Whether it fired is counted as before: resampled is not revived.

With that alone the latents of some architectures might not fire even on their own rows: what takes
a dead latent's place is therefore the architecture's to say (`Architecture.revive`).

Draws are keyed by (seed, step). Everything is written to the state's own tensors by one index:
a chain of two would write to a copy, as a peer does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, EvaluationForm, Revival
from saeserve.core.architectures.evaluation_form import features_of, reconstruction_of
from saeserve.core.ops.draws import generator
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.training.state import TrainerState

Read = Callable[[int, int], Batch]
"""Rows position .. position + size of the stream, preprocessed, on the device."""


def resample(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    dead_F: Tensor,
    upcoming: Upcoming,
    fraction: float,
) -> int:
    """Resample the latents of `dead_F` in place; returns how many.

    Without dead latents, or without a loss to draw by, there are none.
    The counter of tokens since firing is left alone: only firing sets it back.
    """
    dead_N = dead_F.nonzero().squeeze(1)
    if dead_N.numel() == 0:
        return 0
    form = architecture.evaluation_form(spec, state.params, state.architecture)

    def centred(rows: Batch) -> tuple[Tensor, Tensor]:
        return architecture.centred(spec, state.params, rows)

    weight_R = upcoming.weights(form, centred)
    if not 0 < float(weight_R.sum()) < torch.inf:
        return 0
    drawn_N = _draw(weight_R, dead_N.numel(), upcoming.seed, state.step)
    new = Revival(dead_F, upcoming.rows_at(drawn_N), fraction)
    revived = architecture.revive(spec, state.params, state.architecture, form, new)
    for name, rows in revived.items():
        state.params[name][dead_N] = rows
        state.moments.first[name][dead_N] = 0.0
        state.moments.second[name][dead_N] = 0.0
    state.tokens_since_fired_or_resampled_F[dead_N] = 0
    return dead_N.numel()


class Upcoming:
    """The rows that come next, by blocks: rows `start` .. `start + rows` of the stream."""

    def __init__(self, read: Read, start: int, rows: int, block: int, seed: int) -> None:
        """Blocks of `block` rows; `seed` is the run's."""
        self.seed = seed
        self._read = read
        self._blocks = [
            (place, min(block, start + rows - place)) for place in range(start, start + rows, block)
        ]
        self._block = block

    def losses(self, form: EvaluationForm) -> Tensor:
        """|y - y^|^2 of each row, float64 on the CPU."""
        return torch.cat([_row_losses(form, self._read(*block)).cpu() for block in self._blocks])

    def weights(
        self, form: EvaluationForm, centred: Callable[[Batch], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """What rows are drawn by, float64 on the CPU: the squares of `losses`, and 0 for a row
        that gives no direction since it equals the bias that is subtracted from it."""
        found = list[Tensor]()
        for block in self._blocks:
            batch = self._read(*block)
            x_BD, target_BO = centred(batch)
            directed_B = x_BD.any(dim=1) & target_BO.any(dim=1)
            found.append((_row_losses(form, batch).square() * directed_B).cpu())
        return torch.cat(found)

    def rows_at(self, places_N: Tensor) -> Batch:
        """Rows of the given offsets, in that order; read again rather than kept."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        places = [int(place) for place in places_N]
        for number in sorted({place // self._block for place in places}):
            batch = self._read(*self._blocks[number])
            for place in places:
                if place // self._block == number:
                    offset = place % self._block
                    # Copies, for a view would keep its whole block.
                    row = batch.x_BD[offset].clone(), batch.target_BO[offset].clone()
                    found[place] = row
        chosen = [found[place] for place in places]
        x_ND = torch.stack([x_D for x_D, _ in chosen])
        target_NO = torch.stack([target_O for _, target_O in chosen])
        return Batch(x_ND, target_NO)


def _row_losses(form: EvaluationForm, batch: Batch) -> Tensor:
    f_BF = features_of(form, batch.x_BD)
    residual_BO = batch.target_BO - reconstruction_of(form, batch.x_BD, f_BF)
    return residual_BO.double().square().sum(dim=1)


def _draw(weight_R: Tensor, count: int, seed: int, step: int) -> Tensor:
    """`count` rows by weight; none twice while there are enough."""
    again = int((weight_R > 0).sum()) < count
    draws = generator(seed, step, "resample")
    return torch.multinomial(weight_R, count, replacement=again, generator=draws)
