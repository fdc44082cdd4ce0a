"""Lists hold what is outside, whatever the type of the encoder's product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu import choose_pass
from saeserve.core.kernels.jumprelu.dense_pass import Dense
from saeserve.core.kernels.jumprelu.entry_lists import ByRow, Interval, list_outside
from saeserve.core.kernels.jumprelu.margins import Margins
from saeserve.core.kernels.jumprelu.sparse_pass import Listed, ListedWithBand
from saeserve.core.kernels.sort import by_latent

D = 24


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder_of(rows: int, latents: int, dtype: torch.dtype, seed: int = 0) -> Encoder:
    x_BD, W_FD = normal(rows, D, seed=seed), 0.2 * normal(latents, D, seed=seed + 1)
    return Encoder(x_BD, W_FD, 0.3 * normal(latents, seed=seed + 2), dtype)


def exact(encoder: Encoder) -> Tensor:
    return torch.addmm(encoder.b_F, encoder.x_BD, encoder.W_FD.T)


def levels(encoder: Encoder, low: float, high: float) -> Interval:
    ones_F = torch.ones_like(encoder.b_F)
    return Interval(low * ones_F, high * ones_F, 1.0)


def rows_of(listed: ByRow) -> Tensor:
    return listed.row_of_entry


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 300),
    latents=st.integers(1, 300),
    low=st.floats(-2.0, 0.5, width=32),
    width=st.floats(0.0, 3.0, width=32),
    seed=st.integers(0, 100),
)
def test_an_exact_encoder_lists_what_is_outside_and_nothing_else(
    rows: int, latents: int, low: float, width: float, seed: int
) -> None:
    encoder = encoder_of(rows, latents, torch.float32, seed)
    interval = levels(encoder, low, low + width)
    listed = list_outside(encoder, interval, most=2.0)
    assert listed is not None
    h_BF = torch.cat([h_RF.clone() for _, h_RF in encoder.blocks()])
    outside_BF = ~((h_BF > interval.low_F) & (h_BF < interval.high_F))
    assert torch.equal(
        torch.stack([rows_of(listed), listed.latents.long()], dim=1), outside_BF.nonzero()
    )
    assert torch.equal(listed.values, h_BF[outside_BF])


@pytest.mark.parametrize("seed", range(5))
def test_a_bfloat16_encoder_misses_nothing_and_lists_little_more(seed: int) -> None:
    encoder = encoder_of(600, 500, torch.bfloat16, seed)
    interval = levels(encoder, -1.5, 1.2)
    listed = list_outside(encoder, interval, most=2.0)
    assert listed is not None
    h_BF = exact(encoder)
    outside_BF = ~((h_BF > interval.low_F) & (h_BF < interval.high_F))
    listed_BF = torch.zeros_like(outside_BF)
    listed_BF[rows_of(listed), listed.latents.long()] = True
    assert not bool((outside_BF & ~listed_BF).any())
    assert int(listed_BF.sum()) < 1.2 * int(outside_BF.sum())
    torch.testing.assert_close(listed.values, h_BF[listed_BF], rtol=1e-5, atol=1e-6)
    # The product alone would have been wrong about some.
    low_BF = encoder.keep().float()
    assert bool((((low_BF > 1.2) != (h_BF > 1.2)) & outside_BF).any())


def aligned(part: float, rows: int = 3) -> Encoder:
    """Errors of rounding that all have one sign: half of x is moved to a neighbour in bfloat16,
    `part` of a step away; the other half cancels the product but for 512 such steps."""
    x_BD = torch.ones(rows, 1024)
    x_BD[:, :512] += part * 2**-7
    W_FD = torch.ones(20, 1024)
    W_FD[:, 512:] = -1
    return Encoder(x_BD, W_FD, torch.zeros(20), torch.bfloat16)


@pytest.mark.parametrize("part", [0.49, 0.51])
def test_errors_of_rounding_that_add_up_misplace_nothing(part: float) -> None:
    """All of h lie on the other side of the threshold than the product says."""
    encoder = aligned(part)
    h_BF = exact(encoder)
    threshold = 512 * 2**-7 * (0.25 if part < 0.5 else 0.75)
    high = bool((encoder.keep().float() > threshold).all())
    assert high == bool((h_BF < threshold).all())
    interval = levels(encoder, -99.0, threshold)
    listed = list_outside(encoder, interval, most=2.0)
    assert listed is not None
    assert listed.values.numel() == h_BF.numel()
    # Sums of 1,024 numbers that nearly cancel depend on the order, which is the processor's.
    torch.testing.assert_close(listed.values, h_BF.flatten(), rtol=0, atol=5e-3)
    y_BO, found = torch.zeros(3, 5), torch.zeros_like(interval.high_F)
    way = Dense(aligned(part))
    counts_F = way.forward(y_BO, normal(20, 5, seed=0), interval.high_F, found).counts_F
    assert torch.equal(counts_F, (h_BF > threshold).sum(0))


@settings(deadline=None, max_examples=60)
@given(
    d=st.sampled_from([3, 24, 300]),
    spread=st.sampled_from([0.0, 1.0, 4.0]),
    seed=st.integers(0, 2**16),
)
def test_the_bound_holds_for_every_entry(d: int, spread: float, seed: int) -> None:
    """Also for dimensions, rows and latents of very different size."""
    sizes_D = torch.exp(spread * normal(d, seed=seed))
    x_BD = normal(40, d, seed=seed + 1) * sizes_D * torch.exp(normal(40, 1, seed=seed + 2))
    W_FD = normal(50, d, seed=seed + 3) * torch.exp(spread * normal(50, 1, seed=seed + 4))
    encoder = Encoder(x_BD, W_FD, normal(50, seed=seed + 5), torch.bfloat16)
    product_BF = encoder.keep().double()
    exact_BF = torch.addmm(encoder.b_F.double(), x_BD.double(), W_FD.double().T)
    away_BF, margins = (exact_BF - product_BF).abs(), Margins.of(encoder)
    margin_BF = margins.slack_F.double() * margins.scale_B[:, None].double() + margins.fixed_F
    assert bool((away_BF <= margin_BF + margins.unit * product_BF.abs()).all())


def test_a_list_that_grows_too_long_is_given_up() -> None:
    encoder = encoder_of(300, 50, torch.float32)
    assert list_outside(encoder, levels(encoder, 0.0, 0.0), most=0.5) is None
    assert list_outside(encoder, levels(encoder, -99.0, 99.0), most=0.5) is not None


def test_nan_is_outside() -> None:
    encoder = encoder_of(10, 7, torch.bfloat16)
    encoder.x_BD[3, 0] = torch.nan
    listed = list_outside(encoder, levels(encoder, -99.0, 99.0), most=2.0)
    assert listed is not None
    assert torch.equal(rows_of(listed), torch.tensor([3] * 7))
    assert bool(listed.values.isnan().all())


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
def test_entries_by_latent_are_those_by_row(rows: int) -> None:
    encoder = encoder_of(rows, 40, torch.float32)
    listed = list_outside(encoder, levels(encoder, -1.0, 0.5), most=2.0)
    assert listed is not None
    found = by_latent(listed, listed.width)
    order_N = listed.latents.argsort(stable=True)
    assert torch.equal(found.rows.long(), rows_of(listed)[order_N])
    assert torch.equal(found.values, listed.values[order_N])
    counts_F = torch.bincount(listed.latents, minlength=40)
    assert torch.equal(found.starts.diff(), counts_F)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_follows_what_is_rare(dtype: torch.dtype) -> None:
    """h has deviation of about one around zero; the choice sees where threshold and band lie."""
    encoder = encoder_of(256, 2000, dtype)

    def chosen(threshold: float, half_width: float, *, to_input: bool = False) -> object:
        threshold_F = torch.full_like(encoder.b_F, threshold)
        way = choose_pass.choose(encoder, threshold_F, half_width, band_to_input=to_input)
        return type(way), way.usual_band

    assert chosen(3.5, 20.0) == (Listed, 1.0)
    assert chosen(3.5, 0.1) == (Listed, 0.0)
    assert chosen(3.5, 3.5) == (ListedWithBand, 0.0)
    assert chosen(3.5, 3.5, to_input=True) == (Dense, 0.0)
    assert chosen(0.1, 3.0) == (Dense, 0.0)
