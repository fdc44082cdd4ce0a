"""Reconstruction and weight gradients from entries against dense torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import measures, reconstruction, segments, update
from saeserve.core.gpu.choice import Chosen
from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.reconstruction import Reconstructed, Shares
from saeserve.core.gpu.rows import Rows, rounded
from saeserve.core.kernels.topk.weights import DictionaryGradients


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entries(rows: int, k: int, latents: int, hot: int | None = None) -> Chosen:
    """Positive values at ascending latents; the last entry of each row stands for none."""
    order_BF = drawn(rows, latents, seed=1)
    if hot is not None:
        order_BF[:, hot] = math.inf
    latents_BK = order_BF.topk(k, dim=1).indices.sort(dim=1).values
    values_BK = drawn(rows, k, seed=2).abs()
    if k > 1:
        values_BK[:, -1] = 0.0
    return Chosen(values_BK, latents_BK.int())


def dense(chosen: Chosen, values_BK: Tensor, latents: int) -> Tensor:
    f_BF = torch.zeros(values_BK.shape[0], latents, dtype=torch.float64)
    return f_BF.scatter_(1, chosen.latents_BK.long(), values_BK.double())


EXACT, LOW = 2e-6, 1e-3
"""Tolerances of sums in float32, and of those of numbers in float16."""


def close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    off = float((found - expected).abs().max())
    assert off <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.sample
@pytest.mark.parametrize(("rows", "k", "d"), [(3, 5, 33), (2, 1, 577)])
def test_reconstruction_and_dots(rows: int, k: int, d: int) -> None:
    chosen, W_FO = entries(rows, k, 40), drawn(40, d, seed=3)
    b_O, target_BO = drawn(d, seed=4), drawn(rows, d, seed=5)
    found = reconstruction.reconstruct(Entries.of_rows(chosen), W_FO, b_O, target_BO, Shares())
    f_BF = dense(chosen, chosen.values_BK, 40)
    residual_BO = target_BO.double() - (f_BF @ W_FO.double() + b_O.double())
    close(found.residual_BO, residual_BO)
    close(found.gradients_NO, residual_BO)
    close(found.squares_BGT.sum((0, 2)), residual_BO.square().sum()[None])
    dots_BK = (residual_BO @ W_FO.double().T).gather(1, chosen.latents_BK.long())
    close(found.dots_TN.sum(0).view(rows, k), torch.where(chosen.values_BK == 0, 0.0, dots_BK))


@pytest.mark.sample
def test_errors_for_the_gradients_are_scaled_and_rounded_tile_by_tile() -> None:
    """W_dec's copy is what is multiplied; errors of any size keep float16's digits."""
    rows, k, d = 3, 5, 300
    chosen, W_low = entries(rows, k, 40), drawn(40, d, seed=3).half()
    b_O, target_BO = drawn(d, seed=4), drawn(rows, d, seed=5)
    target_BO[:, 256:] *= 1e7
    found = reconstruction.reconstruct(Entries.of_rows(chosen), W_low, b_O, target_BO, Shares())
    f_BF = dense(chosen, chosen.values_BK, 40)
    residual_BO = target_BO.double() - (f_BF @ W_low.double() + b_O.double())
    for tile, columns in enumerate((slice(0, 256), slice(256, d))):
        close(found.residual_BO[:, columns], residual_BO[:, columns])
        scaled_BO = found.low_NO[:, columns].double()
        largest_B = scaled_BO.abs().amax(1)
        assert bool(((largest_B >= 32) & (largest_B <= 64)).all())
        undone_BO = scaled_BO * found.inverses_NT[:, tile, None].double()
        close(undone_BO, residual_BO[:, columns], 2**-11)
    dots_BK = (residual_BO @ W_low.double().T).gather(1, chosen.latents_BK.long())
    close(found.dots_TN.sum(0).view(rows, k), torch.where(chosen.values_BK == 0, 0.0, dots_BK))


@pytest.mark.sample
@pytest.mark.parametrize("detach", [False, True])
def test_prefixes_are_sums_of_groups(detach: bool) -> None:
    """In a row of three groups and one of two, with places that stand for nothing."""
    value = {1: 0.5, 4: 1.0, 5: 2.0, 9: 0.25, 2: 3.0, 7: 1.5, 8: 0.0, 3: 0.0}
    latents_N = torch.tensor([*value], dtype=torch.int32)
    values_N = torch.tensor([*value.values()])
    starts = torch.tensor([0, 2, 3, 4, 5, 5, 7], dtype=torch.int32)
    nested = Entries(values_N, latents_N, starts, 3)
    W_FO, b_O, target_BO = drawn(10, 300, seed=3), drawn(300, seed=4), drawn(2, 300, seed=5)
    shares = Shares(0.5, 0.25, detach)
    found = reconstruction.reconstruct(nested, W_FO, b_O, target_BO, shares, 1)
    groups: list[list[list[int]]] = [[[1, 4], [5], [9]], [[2], [], [7]]]
    errors = torch.zeros(2, 3, 300, dtype=torch.float64)
    for row, lists in enumerate(groups):
        y_O = b_O.double().clone()
        for g, members in enumerate(lists):
            for i in members:
                y_O += value[i] * W_FO[i].double()
            errors[row, g] = target_BO[row].double() - y_O
    close(found.squares_BGT.sum((0, 2)), errors.square().sum((0, 2)))
    close(found.residual_BO, errors[:, 1])
    last = 0.25 * errors[:, 2]
    middle = 0.5 * errors[:, 1] + last
    made = torch.stack([0.5 * errors[:, 0] + (last if detach else middle), middle, last], 1)
    close(found.gradients_NO.view(2, 3, 300), made)
    close(found.to_bias, made[:, 0])
    for n, (row, g) in enumerate([(0, 0), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]):
        close(found.dots_TN[:, n].sum(), made[row, g] @ W_FO[latents_N[n]].double())


def passed(dots_N: Tensor, gradients_NO: Tensor, low: bool = False) -> Reconstructed:
    """What the pass would find that has these gradients, in float16 halved."""
    tile = reconstruction.tile_of(gradients_NO.shape[1])
    rounded_NO = (0.5 * gradients_NO).half() if low else gradients_NO
    tiles = -(-gradients_NO.shape[1] // tile)
    inverses_NT = torch.full((len(gradients_NO), tiles), 2.0)
    none_BGT = torch.zeros(0, 1, tiles)
    # Two tiles' shares.
    dots_TN = torch.stack([0.25 * dots_N, 0.75 * dots_N])
    return Reconstructed(gradients_NO, dots_TN, none_BGT, gradients_NO, rounded_NO, inverses_NT)


@pytest.mark.sample
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("window", [128, 4])
@pytest.mark.parametrize(
    ("d_in", "d_out", "hot", "first"), [(33, 33, 7, None), (577, 20, None, None), (20, 333, 7, 1)]
)
def test_gradients_of_both_dictionaries(
    window: int, d_in: int, d_out: int, hot: int | None, first: int | None, low: bool
) -> None:
    """With windows of 4 entries a latent that fires in every row is cut."""
    rows_in, k, latents, groups = 10, 3, 12, 1 if first is None else 2
    chosen = entries(rows_in, k, latents, hot)
    dots_BK = torch.where(chosen.values_BK == 0, 0.0, drawn(rows_in, k, seed=6))
    x_BD, r_NO = drawn(rows_in, d_in, seed=7), drawn(rows_in * groups, d_out, seed=8)
    listed, scale = Entries.of_rows(chosen, first), torch.tensor(-0.25)
    found = passed(dots_BK.view(-1), r_NO, low)
    dictionaries = drawn(latents, d_in, seed=9), drawn(latents, d_out, seed=10)
    x = Rows(x_BD, rounded(x_BD) if low else None)
    one, other = (
        segments.gradients(listed, found, x, dictionaries, scale, 1, window) for _ in range(2)
    )
    front_BK = chosen.values_BK.clone()
    front_BK[:, first or k :] = 0.0
    f_BF, delta_BF = dense(chosen, chosen.values_BK, latents), dense(chosen, dots_BK, latents)
    front_BF = dense(chosen, front_BK, latents)
    r_BGO, tolerance = r_NO.double().view(rows_in, groups, d_out), LOW if low else EXACT
    W_dec = front_BF.T @ r_BGO[:, 0] + (f_BF - front_BF).T @ r_BGO[:, -1]
    close(one.W_dec, -0.25 * W_dec, tolerance)
    close(one.W_enc, -0.25 * delta_BF.T @ x_BD.double(), tolerance)
    close(one.b_enc, -0.25 * delta_BF.sum(0))
    assert torch.equal(one.fired_F, (front_BF > 0).sum(0))
    for name in ("W_enc", "W_dec", "b_enc", "fired_F"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    measured_alike(one, dictionaries)


def measured_alike(made: DictionaryGradients, dictionaries: tuple[Tensor, Tensor]) -> None:
    """What the sums' program has measured is what the optimiser would measure."""
    for g, w, unit in ((made.W_enc, dictionaries[0], False), (made.W_dec, dictionaries[1], True)):
        known = measures.take(g, w, unit=unit)
        assert known is not None
        assert measures.take(g, w, unit=unit) is None
        found, expected = (torch.zeros(2, len(g)) for _ in range(2))
        measures.collect(known, found[0], found[1], unit=unit)
        if not unit:
            update.measure(w, g, expected[0], expected[1], unit)
            close(found[1], expected[1])
            continue
        along_F = (g.double() * w.double()).sum(1)
        of_w_F = w.double().square().sum(1)
        left_F = g.double().square().sum(1) - along_F**2 * (2 - of_w_F)
        close(found[0], along_F)
        close(found[1], left_F.clamp_min(0))


def test_rows_that_float16_does_not_hold_are_summed_in_float32() -> None:
    rows_in, k, latents, d = 6, 3, 12, 33
    chosen = entries(rows_in, k, latents)
    chosen.values_BK.abs_().add_(0.1)
    dots_BK = drawn(rows_in, k, seed=6)
    sizes_B = torch.tensor([1.0, 1e6, 1e-9, 0.0, 1e5, 1e-30])
    x_BD = drawn(rows_in, d, seed=7) * sizes_B[:, None]
    r_NO = drawn(rows_in, d, seed=8)
    dictionaries = drawn(latents, d, seed=9), drawn(latents, d, seed=10)
    for row in range(rows_in):
        # One row at a time, so that none hides another.
        own_BK = torch.where(torch.arange(rows_in)[:, None] == row, dots_BK, 0.0)
        values_BK = torch.where(torch.arange(rows_in)[:, None] == row, chosen.values_BK, 0.0)
        listed = Entries.of_rows(Chosen(values_BK, chosen.latents_BK))
        found = passed(own_BK.view(-1), r_NO)
        low = Reconstructed(
            *(r_NO, found.dots_TN, found.squares_BGT, r_NO, r_NO.half()),
            torch.ones(rows_in, 1),
        )
        x = Rows(x_BD, rounded(x_BD))
        made = segments.gradients(listed, low, x, dictionaries, torch.tensor(1.0), 1)
        wanted = dense(chosen, own_BK, latents).T @ x_BD.double()
        off = float((made.W_enc - wanted).abs().max())
        assert off <= LOW * float(wanted.abs().max()), row


@pytest.mark.parametrize("low", [False, True])
def test_what_is_not_a_number_shows(low: bool) -> None:
    chosen = entries(4, 3, 12)
    chosen.values_BK[1, 0] = math.nan
    listed = Entries.of_rows(chosen)
    W_FO, b_O, target_BO = drawn(12, 5, seed=3), drawn(5, seed=4), drawn(4, 5, seed=5)
    decoder = W_FO.half() if low else W_FO
    x = Rows(target_BO, rounded(target_BO) if low else None)
    found = reconstruction.reconstruct(listed, decoder, b_O, target_BO, Shares())
    assert torch.equal(found.residual_BO.isnan().any(1), torch.arange(4) == 1)
    assert bool(found.squares_BGT.sum().isnan())
    made = segments.gradients(listed, found, x, (W_FO, W_FO), torch.tensor(1.0), 1)
    latent = int(chosen.latents_BK[1, 0])
    assert bool(made.W_dec[latent].isnan().all())
    assert bool(made.W_enc[latent].isnan().all())
