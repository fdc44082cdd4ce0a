"""Resampling of dead latents (Bricken et al. 2023, Towards Monosemanticity, appendix A.6).

A dead latent takes the direction of a row that is reconstructed badly: rows are drawn with
probability proportional to the square of their loss. Its decoder row is that of the target at the
mean norm of the live ones (unit rows stay unit), its encoder row that of the input at `fraction` of
the live ones' mean norm, both measured from the biases that the source subtracts; its biases are 0
(an encoder that does not subtract b_dec gets what subtracting it would add), and its moments start
anew. Whether it fired is counted as before: resampled is not revived.

That is a recipe for ReLU; other latents might not fire even on their own rows. JumpReLU's gets the
live ones' mean t, and a bias with which it fires on rows at least half as far along as its own. In
the TopK family a latent has to be among the largest, so its encoder row is long enough to exceed by
a tenth what is chosen now on its own row: the k-th largest of live latents, or the threshold. The
resampled ones compete too. Where one would still not be chosen on its own row, all get the longest
encoder row among them, with which no other exceeds a latent on its own row.

Draws are keyed by (seed, step). Everything is written to the state's own tensors by one index:
a chain of two would write to a copy, as a peer does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Batch, EvaluationForm, Tensors
from saeserve.core.architectures.evaluation_form import features_of, reconstruction_of
from saeserve.core.architectures.skip import W_SKIP
from saeserve.core.ops.draws import generator
from saeserve.core.ops.norms import renormalise_rows_, row_norms
from saeserve.core.ops.sparse import rows_per_block
from saeserve.core.training.state import TrainerState

MARGIN = 1.1
"""How far a latent of the TopK family exceeds on its own row what is chosen now."""

Read = Callable[[int, int], Batch]
"""Rows position .. position + size of the stream, preprocessed, on the device."""

_NOT_OF_LATENTS = frozenset({"b_dec", "b_pre", W_SKIP})


def resample(
    state: TrainerState, form: EvaluationForm, dead_F: Tensor, upcoming: Upcoming, fraction: float
) -> int:
    """Resample the latents of `dead_F` in place; returns how many.

    `form` is the state's. Without dead latents, or without a loss to draw by, there are none.
    The counter of tokens since firing is left alone: only firing sets it back.
    """
    dead_N = dead_F.nonzero().squeeze(1)
    if dead_N.numel() == 0:
        return 0
    weight_R = upcoming.weights(form, state.params)
    if not 0 < float(weight_R.sum()) < torch.inf:
        return 0
    drawn_N = _draw(weight_R, dead_N.numel(), upcoming.seed, state.step)
    revived = _revived(state, form, dead_F, upcoming.rows_at(drawn_N), fraction)
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

    def weights(self, form: EvaluationForm, params: Tensors) -> Tensor:
        """What rows are drawn by, float64 on the CPU: the squares of `losses`, and 0 for a row
        that gives no direction since it equals the bias that is subtracted from it."""
        found = list[Tensor]()
        for block in self._blocks:
            batch = self._read(*block)
            x_BD, target_BO = _centred(params, batch)
            directed_B = x_BD.any(dim=1) & target_BO.any(dim=1)
            found.append((_row_losses(form, batch).square() * directed_B).cpu())
        return torch.cat(found)

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


def _revived(
    state: TrainerState, form: EvaluationForm, dead_F: Tensor, rows: Batch, fraction: float
) -> Tensors:
    """What takes the dead latents' places: [N, ...] of each parameter that has a row for each."""
    params, live_F = state.params, ~dead_F
    x_ND, target_NO = _centred(params, rows)
    usual = fraction * _mean_norm(params["W_enc"], live_F)
    norm_N = _encoder_norms(state, form, dead_F, rows.x_BD, x_ND, usual)
    W_enc_ND = norm_N[:, None] * renormalise_rows_(x_ND.clone())
    vectors = {
        name: value.new_zeros(len(x_ND))
        for name, value in params.items()
        if value.ndim == 1 and name not in _NOT_OF_LATENTS
    }
    if not _subtracts_bias(state, form):
        vectors["b_enc"] -= W_enc_ND @ _input_bias(params, rows)
    if "t" in params:
        vectors["t"] += _live(params["t"], live_F).mean()
        vectors["b_enc"] += vectors["t"].exp() - (W_enc_ND * x_ND).sum(dim=1) / 2
    W_dec_NO = _mean_norm(params["W_dec"], live_F) * renormalise_rows_(target_NO.clone())
    return {"W_enc": W_enc_ND, "W_dec": W_dec_NO, **vectors}


def _centred(params: Tensors, rows: Batch) -> tuple[Tensor, Tensor]:
    """Inputs and targets from the biases on: the directions that latents take."""
    target_BO = rows.target_BO - params["b_dec"]
    if W_SKIP in params:
        target_BO = target_BO - rows.x_BD @ params[W_SKIP].T
    return rows.x_BD - _input_bias(params, rows), target_BO


def _input_bias(params: Tensors, rows: Batch) -> Tensor:
    """Where inputs are centred: b_pre, or b_dec where the target is the input, else nowhere."""
    if "b_pre" in params:
        return params["b_pre"]
    same = torch.equal(rows.x_BD, rows.target_BO)
    return params["b_dec"] if same else torch.zeros_like(rows.x_BD[0])


def _subtracts_bias(state: TrainerState, form: EvaluationForm) -> bool:
    """Whether the encoder reads x less its bias: all do but ReLU's and JumpReLU's."""
    relu = form.k is None and form.threshold_F is None
    return not relu and "t" not in state.params


def _encoder_norms(
    state: TrainerState,
    form: EvaluationForm,
    dead_F: Tensor,
    x_ND: Tensor,
    centred_ND: Tensor,
    usual: Tensor,
) -> Tensor:
    """[N], at least `usual`: in the TopK family as much as the module's text says."""
    norm_N = row_norms(centred_ND)
    if form.k is None:
        level = state.architecture.get("threshold", usual.new_zeros(()))
        return torch.maximum(usual, MARGIN * level.to(norm_N) / norm_N)
    chosen_NK = _chosen_of_live(form, form.k, dead_F, x_ND)
    length_N = torch.maximum(usual, MARGIN * chosen_NK[:, -1].clamp_min(0) / norm_N)
    if _all_chosen(chosen_NK, centred_ND, length_N):
        return length_N
    return length_N.max().expand_as(length_N)


def _chosen_of_live(form: EvaluationForm, k: int, dead_F: Tensor, x_ND: Tensor) -> Tensor:
    """The k largest pre-activations of live latents on each row, [N, k]; -inf where there are
    fewer."""
    found, size = list[Tensor](), rows_per_block(dead_F.shape[0])
    for start in range(0, len(x_ND), size):
        h_BF = torch.addmm(form.b_enc_F, x_ND[start : start + size], form.W_enc_FD.T)
        found.append(h_BF.masked_fill(dead_F, -torch.inf).topk(k, dim=1).values)
    return torch.cat(found)


def _all_chosen(chosen_NK: Tensor, centred_ND: Tensor, length_N: Tensor) -> bool:
    """Whether each latent is among the k largest on its own row, where all others compete."""
    norm_N = row_norms(centred_ND)
    W_enc_ND = centred_ND * (length_N / norm_N)[:, None]
    own_N, size = length_N * norm_N, rows_per_block(len(centred_ND))
    for start in range(0, len(centred_ND), size):
        rows = slice(start, start + size)
        h_BN = centred_ND[rows] @ W_enc_ND.T
        h_BN.diagonal(start).fill_(-torch.inf)
        above_B = (h_BN >= own_N[rows, None]).sum(1) + (chosen_NK[rows] >= own_N[rows, None]).sum(1)
        if bool((above_B >= chosen_NK.shape[1]).any()):
            return False
    return True


def _live(values: Tensor, live_F: Tensor) -> Tensor:
    """Those of live latents; of all where none lives."""
    return values[live_F] if bool(live_F.any()) else values


def _mean_norm(W_FX: Tensor, live_F: Tensor) -> Tensor:
    return row_norms(_live(W_FX, live_F)).mean()
