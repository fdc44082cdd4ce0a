"""Resampling of dead latents (Bricken et al. 2023, Towards Monosemanticity, appendix A.6).

A dead latent takes the direction of a row that is reconstructed badly: rows are drawn with
probability proportional to the square of their loss. Its decoder row is that of the target at the
mean norm of the live ones (unit rows stay unit), its encoder row that of the input at `fraction` of
the live ones' mean norm; biases are 0, its moments and its count of tokens start anew. With a bias
of 0 a latent with a threshold might not fire even on its own row, so JumpReLU's gets the live ones'
mean t, and a bias with which it fires on rows at least half as far along as its own.

Draws are keyed by (seed, step). Everything is written to the state's own tensors by one index:
a chain of two would write to a copy, as a peer does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saeserve.core.architectures.applied import features_of, reconstruction_of
from saeserve.core.architectures.contract import Batch, EvaluationForm, Tensors
from saeserve.core.architectures.skip import W_SKIP
from saeserve.core.ops.draws import generator
from saeserve.core.ops.norms import renormalise_rows_, row_norms
from saeserve.core.training.state import TrainerState

Read = Callable[[int, int], Batch]
"""Rows position .. position + size of the stream, preprocessed, on the device."""

_NOT_OF_LATENTS = frozenset({"b_dec", "b_pre", W_SKIP})


def resample(
    state: TrainerState, form: EvaluationForm, dead_F: Tensor, upcoming: Upcoming, fraction: float
) -> int:
    """Resample the latents of `dead_F` in place; returns how many.

    `form` is the state's. Without dead latents, or without a loss to draw by, there are none.
    """
    dead_N = dead_F.nonzero().squeeze(1)
    if dead_N.numel() == 0:
        return 0
    weight_R = upcoming.losses(form).square()
    if not 0 < float(weight_R.sum()) < torch.inf:
        return 0
    drawn_N = _draw(weight_R, dead_N.numel(), upcoming.seed, state.step)
    revived = _revived(state.params, ~dead_F, upcoming.rows_at(drawn_N), fraction)
    for name, rows in revived.items():
        state.params[name][dead_N] = rows
        state.moments.first[name][dead_N] = 0.0
        state.moments.second[name][dead_N] = 0.0
    state.tokens_since_fired_F[dead_N] = 0
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

    def rows_at(self, places_N: Tensor) -> Batch:
        """Rows of the given offsets, in that order; read anew rather than kept."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        places = [int(place) for place in places_N]
        for number in sorted({place // self._block for place in places}):
            batch = self._read(*self._blocks[number])
            for place in places:
                if place // self._block == number:
                    offset = place % self._block
                    found[place] = (batch.x_BD[offset], batch.target_BO[offset])
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


def _revived(params: Tensors, live_F: Tensor, rows: Batch, fraction: float) -> Tensors:
    """What takes the dead latents' places: [N, ...] of each parameter that has a row for each."""
    target_NO = rows.target_BO - params["b_dec"]
    if W_SKIP in params:
        target_NO = target_NO - rows.x_BD @ params[W_SKIP].T
    x_ND = rows.x_BD - _input_bias(params, rows)
    W_dec_NO = _mean_norm(params["W_dec"], live_F) * renormalise_rows_(target_NO.clone())
    W_enc_ND = fraction * _mean_norm(params["W_enc"], live_F) * renormalise_rows_(x_ND.clone())
    vectors = {
        name: value.new_zeros(len(x_ND))
        for name, value in params.items()
        if value.ndim == 1 and name not in _NOT_OF_LATENTS
    }
    if "t" in params:
        vectors["t"] += _live(params["t"], live_F).mean()
        reach_N = (W_enc_ND * rows.x_BD).sum(dim=1)
        vectors["b_enc"] = vectors["t"].exp() - reach_N / 2
    return {"W_enc": W_enc_ND, "W_dec": W_dec_NO, **vectors}


def _input_bias(params: Tensors, rows: Batch) -> Tensor:
    """Where inputs are centred: b_pre, or b_dec where the target is the input, else nowhere."""
    if "b_pre" in params:
        return params["b_pre"]
    same = torch.equal(rows.x_BD, rows.target_BO)
    return params["b_dec"] if same else torch.zeros_like(rows.x_BD[0])


def _live(values: Tensor, live_F: Tensor) -> Tensor:
    """Those of live latents; of all where none lives."""
    return values[live_F] if bool(live_F.any()) else values


def _mean_norm(W_FX: Tensor, live_F: Tensor) -> Tensor:
    return row_norms(_live(W_FX, live_F)).mean()
