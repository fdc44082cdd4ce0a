"""Reconstruction and weight gradients from entries against dense torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import reconstruction, segments
from saeserve.core.gpu.choice import Chosen
from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.reconstruction import Reconstructed, Shares


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
    found = reconstruction.reconstruct(Entries.of_rows(chosen), W_FO, b_O, target_BO, Shares())
    f_BF = dense(chosen, chosen.values_BK, 40)
    residual_BO = target_BO.double() - (f_BF @ W_FO.double() + b_O.double())
    close(found.residual_BO, residual_BO)
    close(found.gradients_NO, residual_BO)
    close(found.squares_G, residual_BO.square().sum()[None])
    dots_BK = (residual_BO @ W_FO.double().T).gather(1, chosen.latents_BK.long())
    close(found.dots_N.view(rows, k), torch.where(chosen.values_BK == 0, 0.0, dots_BK))


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
    close(found.squares_G, errors.square().sum((0, 2)))
    close(found.residual_BO, errors[:, 1])
    last = 0.25 * errors[:, 2]
    middle = 0.5 * errors[:, 1] + last
    made = torch.stack([0.5 * errors[:, 0] + (last if detach else middle), middle, last], 1)
    close(found.gradients_NO.view(2, 3, 300), made)
    close(found.to_bias(), made[:, 0].sum(0))
    for n, (row, g) in enumerate([(0, 0), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]):
        close(found.dots_N[n], made[row, g] @ W_FO[latents_N[n]].double())


def passed(dots_N: Tensor, gradients_NO: Tensor) -> Reconstructed:
    """What the pass would find that has these gradients."""
    return Reconstructed(gradients_NO, dots_N, torch.zeros(1), gradients_NO)


@pytest.mark.sample
@pytest.mark.parametrize("window", [128, 4])
@pytest.mark.parametrize(
    ("d_in", "d_out", "hot", "first"), [(33, 33, 7, None), (577, 20, None, None), (20, 33, 7, 1)]
)
def test_gradients_of_both_dictionaries(
    window: int, d_in: int, d_out: int, hot: int | None, first: int | None
) -> None:
    """With windows of 4 entries a latent that fires in every row is cut."""
    rows, k, latents, groups = 10, 3, 12, 1 if first is None else 2
    chosen = entries(rows, k, latents, hot)
    dots_BK = torch.where(chosen.values_BK == 0, 0.0, drawn(rows, k, seed=6))
    x_BD, r_NO = drawn(rows, d_in, seed=7), drawn(rows * groups, d_out, seed=8)
    listed, scale = Entries.of_rows(chosen, first), torch.tensor(-0.25)
    one, other = (
        segments.gradients(listed, passed(dots_BK.view(-1), r_NO), x_BD, latents, scale, 1, window)
        for _ in range(2)
    )
    front_BK = chosen.values_BK.clone()
    front_BK[:, first or k :] = 0.0
    f_BF, delta_BF = dense(chosen, chosen.values_BK, latents), dense(chosen, dots_BK, latents)
    front_BF = dense(chosen, front_BK, latents)
    r_BGO = r_NO.double().view(rows, groups, d_out)
    close(one.W_dec, -0.25 * (front_BF.T @ r_BGO[:, 0] + (f_BF - front_BF).T @ r_BGO[:, -1]))
    close(one.W_enc, -0.25 * delta_BF.T @ x_BD.double())
    close(one.b_enc, -0.25 * delta_BF.sum(0))
    assert torch.equal(one.fired_F, (front_BF > 0).sum(0))
    for name in ("W_enc", "W_dec", "b_enc", "fired_F"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_what_is_not_a_number_shows() -> None:
    chosen = entries(4, 3, 12)
    chosen.values_BK[1, 0] = math.nan
    listed = Entries.of_rows(chosen)
    W_FO, b_O, target_BO = drawn(12, 5, seed=3), drawn(5, seed=4), drawn(4, 5, seed=5)
    found = reconstruction.reconstruct(listed, W_FO, b_O, target_BO, Shares())
    assert torch.equal(found.residual_BO.isnan().any(1), torch.arange(4) == 1)
    assert bool(found.squares_G.isnan())
    made = segments.gradients(listed, found, target_BO, 12, torch.tensor(1.0), 1)
    latent = int(chosen.latents_BK[1, 0])
    assert bool(made.W_dec[latent].isnan().all())
    assert bool(made.W_enc[latent].isnan().all())
