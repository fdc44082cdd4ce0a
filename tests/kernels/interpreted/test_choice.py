"""The exact choice of each row's largest pre-activations against a sort."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import choice, choice_long, rows
from saeserve.core.gpu.choice import Chosen


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Listed = tuple[list[list[int]], list[list[float]]]
"""Latents in ascending order and their values, of each row."""


def sorted_top(h_BF: Tensor, k: int) -> Listed:
    """The k largest positive entries, of equals the lower latents, NaN before all others."""
    key_BF = h_BF.nan_to_num(math.inf, math.inf)
    order_BF = key_BF.sort(dim=1, descending=True, stable=True).indices[:, :k]
    latents, values = list[list[int]](), list[list[float]]()
    for row in range(h_BF.shape[0]):
        kept = sorted(int(i) for i in order_BF[row] if float(key_BF[row, i]) > 0)
        latents.append(kept)
        values.append([float(h_BF[row, i]) for i in kept])
    return latents, values


def listed(chosen: Chosen) -> Listed:
    latents, values = list[list[int]](), list[list[float]]()
    for value_K, latent_K in zip(chosen.values_BK, chosen.latents_BK, strict=True):
        kept_K = value_K != 0
        latents.append([int(i) for i in latent_K[kept_K]])
        values.append([float(v) for v in value_K[kept_K]])
    return latents, values


@pytest.mark.sample
@pytest.mark.parametrize(("latents", "k"), [(60, 5), (577, 16)])
def test_the_choice_among_exact_entries_is_the_sorted_one(latents: int, k: int) -> None:
    h_BF = drawn(2, latents)
    assert listed(choice.top(h_BF, k)) == sorted_top(h_BF, k)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_ties_go_to_the_lower_latent(k: int) -> None:
    h_BF = (drawn(4, 40) * 2).round() / 2
    h_BF[1] = 1.0
    h_BF[2] = 0.0
    h_BF[3] -= 3
    assert listed(choice.top(h_BF, k)) == sorted_top(h_BF, k)


@pytest.mark.parametrize("first", [1, 4, 12])
def test_the_largest_can_come_first(first: int) -> None:
    """Ties and rows with fewer positive entries than there are places for."""
    h_BF = (drawn(5, 40) * 2).round() / 2
    h_BF[1] = 1.0
    h_BF[2] = -1.0
    h_BF[2, [7, 30]] = 1.0
    h_BF[3] -= 1.5
    found = choice.top(h_BF, 20, first)
    assert listed(cut(found, slice(first))) == sorted_top(h_BF, first)
    assert listed(in_order(found)) == sorted_top(h_BF, 20)


def cut(chosen: Chosen, places: slice) -> Chosen:
    return Chosen(chosen.values_BK[:, places], chosen.latents_BK[:, places])


def in_order(chosen: Chosen) -> Chosen:
    """In ascending order of latent again; what stands for nothing is left where it comes."""
    latents_BK, order_BK = chosen.latents_BK.sort(dim=1, stable=True)
    return Chosen(chosen.values_BK.gather(1, order_BK), latents_BK)


def test_lists_that_are_full_are_cut_without_losing_any() -> None:
    h_BF = drawn(3, 200, seed=1)
    h_BF[0] = torch.linspace(0.1, 1.0, 200)
    h_BF[1] = torch.linspace(1.0, 0.1, 200)
    with mock.patch.object(choice, "ENTRIES", 16):
        errors_B = torch.full((3,), 10.0)
        # So large an error that all are candidates; they are as exact as their low form here.
        weights = torch.eye(200), torch.zeros(200)
        low = choice.top_of_low(h_BF.half(), errors_B, 6, h_BF, weights)
    assert listed(low) == sorted_top(h_BF, 6)


def test_rows_of_many_candidates_are_found_wherever_they_are() -> None:
    """Programs of two rows, of which none, one and both have many; the last has a single row."""
    h_BF = drawn(7, 40, seed=4)
    h_BF[3:] = 1.0
    h_BF[[3, 4, 5], [7, 1, 38]] = 2.0
    with mock.patch.object(choice_long, "ROWS", 2):
        assert listed(choice.top(h_BF, 3)) == sorted_top(h_BF, 3)


@pytest.mark.sample
def test_after_a_product_in_low_precision_the_choice_is_that_of_float32() -> None:
    """Twin latents lie closer to each other than the product can tell."""
    x_BD, W_FD, b_F = drawn(4, 33), drawn(120, 33, seed=1), drawn(120, seed=2)
    W_FD[60:] = W_FD[:60] * (1 + 1e-5)
    b_F[60:] = b_F[:60]
    found = low_choice(x_BD, W_FD, b_F, 9)
    exact_BF = torch.addmm(b_F.double(), x_BD.double(), W_FD.double().T)
    latents, values = listed(found)
    expected, expected_values = sorted_top(exact_BF, 9)
    assert latents == expected
    for mine, other in zip(values, expected_values, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


@pytest.mark.sample
@pytest.mark.parametrize("shift", [0.0, -3.0, 100.0])
def test_entries_that_are_surely_chosen_keep_the_values_of_the_product(shift: float) -> None:
    """Twins are open, so theirs are exact; the choice is the same."""
    x_BD, W_FD, b_F = drawn(5, 33), drawn(120, 33, seed=1), drawn(120, seed=2) + shift
    W_FD[60:] = W_FD[:60] * (1 + 1e-5)
    b_F[60:] = b_F[:60]
    exact = low_choice(x_BD, W_FD, b_F, 9)
    found = low_choice(x_BD, W_FD, b_F, 9, only_open=True)
    assert torch.equal(found.latents_BK, exact.latents_BK)
    off_BK = (found.values_BK - exact.values_BK).abs()
    assert bool((off_BK <= 1e-3 * exact.values_BK).all())
    kept_BK = found.values_BK == found.values_BK.half().float()
    assert shift < 0 or bool((kept_BK & (off_BK > 0)).any())
    assert shift > 0 or bool((~kept_BK).any())


def test_a_row_of_few_entries_keeps_them_all() -> None:
    x_BD, W_FD, b_F = drawn(2, 33), drawn(40, 33, seed=1), torch.full((40,), -100.0)
    b_F[[3, 9]] = 100.0
    exact, found = (
        low_choice(x_BD, W_FD, b_F, 5, only_open=only_open) for only_open in (False, True)
    )
    assert listed(found)[0] == listed(exact)[0] == [[3, 9], [3, 9]]


@pytest.mark.parametrize("room", [16, 32])
def test_where_a_list_was_full_all_is_computed(room: int) -> None:
    x_BD, W_FD, b_F = drawn(3, 33), drawn(120, 33, seed=1), 50.0 + torch.zeros(120)
    W_FD[30:] = W_FD[:30].repeat(3, 1)
    exact = low_choice(x_BD, W_FD, b_F, 6)
    with mock.patch.object(choice, "ENTRIES", room):
        found = low_choice(x_BD, W_FD, b_F, 6, only_open=True)
    assert torch.equal(found.latents_BK, exact.latents_BK)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e4])
def test_bounds_hold_for_numbers_that_float16_cannot_hold(size: float) -> None:
    x_BD, W_FD, b_F = drawn(3, 20) * size, drawn(50, 20, seed=1), torch.zeros(50)
    W_FD[7] *= 1e5
    x_BD[1] *= 1e-3
    latents, _ = listed(low_choice(x_BD, W_FD, b_F, 6))
    assert latents == sorted_top(x_BD.double() @ W_FD.double().T, 6)[0]


def low_choice(
    x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int, *, only_open: bool = False
) -> Chosen:
    centred_BD, x_low = rows.centred(x_BD, torch.zeros(x_BD.shape[1]))
    assert torch.equal(centred_BD, x_BD)
    W_low, b_low_F = rows.shadow_of(W_FD), b_F.to(rows.LOW)
    h_BF = torch.addmm(b_low_F, x_low.low_FD, W_low.low_FD.T)
    errors_B = rows.largest_errors(x_low, W_low, b_F)
    return choice.top_of_low(h_BF, errors_B, k, x_BD, (W_FD, b_F), only_open=only_open)


def test_not_a_number_is_chosen_first() -> None:
    h_BF = drawn(2, 30)
    h_BF[0, 11] = math.nan
    h_BF[1, :] = math.nan
    latents, values = listed(choice.top(h_BF, 4))
    assert 11 in latents[0]
    assert math.isnan(values[0][latents[0].index(11)])
    assert latents[1] == [0, 1, 2, 3]
    assert all(math.isnan(value) for value in values[1])


@pytest.mark.parametrize(
    ("latents", "k", "width"), [(24576, 32, 32), (60, 5, 2), (60, 60, 1), (2**20, 32, 256)]
)
def test_groups_are_as_wide_as_a_program_and_the_choice_allow(
    latents: int, k: int, width: int
) -> None:
    assert choice.group_width(latents, k) == width


@pytest.mark.sample
def test_rounded_rows_and_their_norms() -> None:
    x_BD, b_D = drawn(3, 577), drawn(577, seed=1)
    x_BD[1] = b_D
    centred_BD, low = rows.centred(x_BD, b_D)
    assert torch.equal(centred_BD, x_BD - b_D)
    assert torch.equal(low.low_FD, centred_BD.half())
    lost_BD = centred_BD.double() - low.low_FD.double()
    torch.testing.assert_close(low.norm_F, norms(centred_BD))
    torch.testing.assert_close(low.lost_F, norms(lost_BD))
    torch.testing.assert_close(low.fourth_F, norms(centred_BD.square()).sqrt())
    torch.testing.assert_close(low.lost_fourth_F, norms(lost_BD.double().square()).sqrt())


def test_rounding_costs_less_than_is_likely() -> None:
    """Also with a number that dominates its row, and with numbers below the normal ones."""
    x_BD, W_FD = drawn(64, 513), drawn(300, 513, seed=1)
    x_BD[0, 3], x_BD[1], W_FD[5] = 300.0, x_BD[1] * 1e-6, W_FD[5] * 1e-6
    b_F = drawn(300, seed=2)
    _, x = rows.centred(x_BD, torch.zeros(513))
    W, b_low_F = rows.rounded(W_FD), b_F.half()
    found_B = rows.likely_errors(x, W, b_F)
    low_BF = x.low_FD.double() @ W.low_FD.double().T + b_low_F.double()
    errors_B = (low_BF - x_BD.double() @ W_FD.double().T - b_F.double()).abs().amax(1)
    assert bool((errors_B < found_B).all())
    assert bool((found_B <= rows.largest_errors(x, W, b_F)).all())
    assert float(found_B[2:].median()) < 0.5 * float(rows.largest_errors(x, W, b_F)[2:].median())


def norms(rows_BD: Tensor) -> Tensor:
    return rows_BD.double().square().sum(1).sqrt().float()
