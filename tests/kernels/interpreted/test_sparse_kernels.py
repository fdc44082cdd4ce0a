"""Reconstruction and weight gradients from entries against dense torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import reconstruction, segments
from saeserve.core.gpu.choice import Chosen


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


def close(found: Tensor, expected: Tensor) -> None:
    off = float((found - expected).abs().max())
    assert off <= 2e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.sample
@pytest.mark.parametrize(("rows", "k", "d"), [(3, 5, 33), (2, 1, 577)])
def test_reconstruction_and_dots(rows: int, k: int, d: int) -> None:
    chosen, W_FO = entries(rows, k, 40), drawn(40, d, seed=3)
    b_O, target_BO = drawn(d, seed=4), drawn(rows, d, seed=5)
    found = reconstruction.reconstruct(chosen, W_FO, b_O, target_BO)
    f_BF = dense(chosen, chosen.values_BK, 40)
    residual_BO = target_BO.double() - (f_BF @ W_FO.double() + b_O.double())
    close(found.residual_BO, residual_BO)
    close(found.squares_B, residual_BO.square().sum(1))
    dots_BK = (residual_BO @ W_FO.double().T).gather(1, chosen.latents_BK.long())
    close(found.dots_BK, torch.where(chosen.values_BK == 0, 0.0, dots_BK))


@pytest.mark.sample
@pytest.mark.parametrize("window", [128, 4])
@pytest.mark.parametrize(("d_in", "d_out", "hot"), [(33, 33, 7), (577, 20, None)])
def test_gradients_of_both_dictionaries(
    window: int, d_in: int, d_out: int, hot: int | None
) -> None:
    """With windows of 4 entries a latent that fires in every row is cut."""
    rows, k, latents = 10, 3, 12
    chosen = entries(rows, k, latents, hot)
    dots_BK = torch.where(chosen.values_BK == 0, 0.0, drawn(rows, k, seed=6))
    x_BD, r_BO = drawn(rows, d_in, seed=7), drawn(rows, d_out, seed=8)
    scale = torch.tensor(-0.25)
    one, other = (
        segments.gradients(chosen, dots_BK, (x_BD, r_BO), latents, scale, window) for _ in range(2)
    )
    f_BF, delta_BF = dense(chosen, chosen.values_BK, latents), dense(chosen, dots_BK, latents)
    close(one.W_dec, -0.25 * f_BF.T @ r_BO.double())
    close(one.W_enc, -0.25 * delta_BF.T @ x_BD.double())
    close(one.b_enc, -0.25 * delta_BF.sum(0))
    assert torch.equal(one.fired_F, (f_BF > 0).sum(0))
    for name in ("W_enc", "W_dec", "b_enc", "fired_F"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_what_is_not_a_number_shows() -> None:
    chosen = entries(4, 3, 12)
    chosen.values_BK[1, 0] = math.nan
    W_FO, b_O, target_BO = drawn(12, 5, seed=3), drawn(5, seed=4), drawn(4, 5, seed=5)
    found = reconstruction.reconstruct(chosen, W_FO, b_O, target_BO)
    assert bool(found.squares_B[1].isnan())
    assert not bool(found.squares_B[0].isnan())
    made = segments.gradients(
        chosen, found.dots_BK, (target_BO, found.residual_BO), 12, torch.tensor(1.0)
    )
    latent = int(chosen.latents_BK[1, 0])
    assert bool(made.W_dec[latent].isnan().all())
    assert bool(made.W_enc[latent].isnan().all())
