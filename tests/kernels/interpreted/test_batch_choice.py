"""The exact choice of a micro-batch's largest pre-activations against a sort of all."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import batch_choice, prefixes, rows
from saeserve.core.gpu.batch_choice import BatchChosen
from saeserve.core.gpu.entries import Entries

Listed = list[tuple[int, int, float]]
"""Row, latent and value of what is kept, in this order."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sorted_top(h_BF: Tensor, n: int) -> tuple[Listed, float]:
    """The n largest positive entries, of equals the first ones, NaN before all others; and the
    level between the smallest kept and the largest left."""
    flat_M, order_M = h_BF.flatten().sort(descending=True, stable=True)
    places = sorted(int(place) for place in order_M[:n] if not h_BF.view(-1)[place] <= 0)
    width = h_BF.shape[1]
    kept = [(place // width, place % width, float(h_BF.view(-1)[place])) for place in places]
    smallest, left = flat_M[n - 1 : n].relu().sum(), flat_M[n : n + 1].relu().sum()
    return kept, float((smallest + left) / 2)


def listed(found: BatchChosen) -> Listed:
    entries = found.entries
    kept = Listed()
    for row in range(entries.starts.numel() - 1):
        for place in range(int(entries.starts[row]), int(entries.starts[row + 1])):
            value, latent = entries.values_N[place], entries.latents_N[place]
            kept.append((row, int(latent), float(value)))
    assert not bool(entries.values_N[int(entries.starts[-1]) :].any())
    return kept


def agree(found: BatchChosen, h_BF: Tensor, n: int) -> None:
    kept, level = sorted_top(h_BF, n)
    mine = listed(found)
    assert [entry[:2] for entry in mine] == [entry[:2] for entry in kept]
    values = [value for _, _, value in kept]
    assert [value for _, _, value in mine] == pytest.approx(values, rel=1e-5, nan_ok=True)
    assert float(found.level) == pytest.approx(level, rel=1e-5, nan_ok=True)


@pytest.mark.sample
@pytest.mark.parametrize(("shape", "n"), [((3, 60), 7), ((2, 577), 40), ((1, 1), 1)])
def test_the_choice_among_exact_entries_is_the_sorted_one(shape: tuple[int, int], n: int) -> None:
    h_BF = drawn(*shape).abs()
    agree(batch_choice.top(h_BF, n), h_BF, n)


@pytest.mark.parametrize("n", [1, 7, 21, 64])
@pytest.mark.parametrize("capacity", [1000, 9])
def test_ties_go_to_the_first_by_row_and_latent(n: int, capacity: int) -> None:
    """Where there is no room for the candidates too."""
    h_BF = (drawn(4, 16) * 2).round() / 2
    h_BF[1] = 1.0
    h_BF[2] = 0.0
    h_BF[3] -= 2
    with mock.patch.object(batch_choice, "_capacity", return_value=capacity):
        agree(batch_choice.top(h_BF, n), h_BF, n)


@pytest.mark.parametrize("capacity", [1000, 11])
@pytest.mark.sample
def test_after_a_product_in_low_precision_the_choice_is_that_of_float32(capacity: int) -> None:
    """Twin latents lie closer to each other than the product can tell."""
    x_BD, W_FD, b_F = drawn(3, 33), drawn(40, 33, seed=1), drawn(40, seed=2)
    W_FD[20:] = W_FD[:20] * (1 + 1e-5)
    b_F[20:] = b_F[:20]
    with mock.patch.object(batch_choice, "_capacity", return_value=capacity):
        found = low_choice(x_BD, W_FD, b_F, 19)
    exact_BF = torch.addmm(b_F.double(), x_BD.double(), W_FD.double().T)
    agree(found, exact_BF, 19)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e4])
def test_bounds_hold_for_numbers_that_float16_cannot_hold(size: float) -> None:
    x_BD, W_FD, b_F = drawn(2, 20) * size, drawn(24, 20, seed=1), torch.zeros(24)
    W_FD[7] *= 1e5
    x_BD[1] *= 1e-3
    agree(low_choice(x_BD, W_FD, b_F, 8), x_BD.double() @ W_FD.double().T, 8)


def test_errors_as_large_as_their_bounds_change_nothing() -> None:
    """What is among the largest looks smaller than it is, and all else larger; rows differ."""
    exact_BF, errors_B = drawn(3, 40, seed=3), torch.tensor([0.5, 0.25, 0.0])
    n, lost_B1 = 18, 0.99 * errors_B[:, None]
    largest_M = exact_BF.flatten().topk(n).indices
    shift_BF = torch.ones(120).index_fill(0, largest_M, -1.0).view_as(exact_BF)
    low_BF = (exact_BF + shift_BF * lost_B1).half()
    # By these rows and weights the exact entries are `exact_BF`.
    weights = torch.eye(40), torch.zeros(40)
    agree(batch_choice.top_of_low(low_BF, errors_B, n, exact_BF, weights), exact_BF, n)


def test_a_bound_that_is_not_a_number_says_nothing_about_other_rows() -> None:
    """As bits it is larger than any number, so its row would seem to hold all of the largest."""
    exact_BF, errors_B = drawn(3, 40, seed=3).abs(), torch.tensor([math.nan, 0.0, 0.0])
    exact_BF[0] *= -1
    weights = torch.eye(40), torch.zeros(40)
    found = batch_choice.top_of_low(exact_BF.half(), errors_B, 7, exact_BF, weights)
    agree(found, exact_BF, 7)


def test_a_row_of_large_numbers_does_not_make_candidates_of_the_others() -> None:
    x_BD, W_FD, b_F = drawn(12, 20), drawn(300, 20, seed=1), torch.zeros(300)
    x_BD[5] *= 100.0
    h_BF, errors_B = low_product(x_BD, W_FD, b_F)
    found = batch_choice._candidates(h_BF, errors_B, 240, (x_BD, W_FD, b_F))  # pyright: ignore[reportPrivateUsage]
    offsets = found.source[4]
    assert 241 <= int(offsets[-1]) < 320


def low_choice(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, n: int) -> BatchChosen:
    h_BF, errors_B = low_product(x_BD, W_FD, b_F)
    return batch_choice.top_of_low(h_BF, errors_B, n, x_BD, (W_FD, b_F))


def low_product(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations in low precision, and their errors."""
    _, x_low = rows.centred(x_BD, torch.zeros(x_BD.shape[1]))
    W_low, b_low_F = rows.shadow_of(W_FD), b_F.to(rows.LOW)
    h_BF = torch.addmm(b_low_F, x_low.low_FD, W_low.low_FD.T)
    return h_BF, rows.largest_errors(x_low, W_low, b_F)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_not_a_number_is_chosen_first(n: int) -> None:
    h_BF = drawn(2, 30)
    h_BF[0, 11] = math.nan
    h_BF[1, [3, 4]] = -math.nan
    h_BF[1, 7] = math.inf
    agree(batch_choice.top(h_BF, n), h_BF, n)


@pytest.mark.parametrize("n", [3, 60])
def test_with_too_few_positive_entries_all_are_kept(n: int) -> None:
    for h_BF in (drawn(2, 30) - 2.5, -drawn(2, 30).abs()):
        agree(batch_choice.top(h_BF, n), h_BF, n)


def test_two_choices_are_equal_to_the_bit() -> None:
    x_BD, W_FD, b_F = drawn(3, 20), drawn(50, 20, seed=1), torch.zeros(50)
    one, other = (low_choice(x_BD, W_FD, b_F, 20) for _ in range(2))
    assert torch.equal(one.entries.values_N, other.entries.values_N)
    assert torch.equal(one.entries.latents_N, other.entries.latents_N)
    assert torch.equal(one.level, other.level)


def test_places_have_numbers_of_32_bits() -> None:
    assert batch_choice.possible(8192 * 32, 8192, 24_576)
    assert not batch_choice.possible(2**24 * 100, 2**24, 24_576)
    assert not batch_choice.possible(8192 * 4096, 8192, 24_576)
    assert not batch_choice.possible(64, 2, 2**24)


@pytest.mark.sample
def test_rows_are_parted_into_the_groups_of_prefixes() -> None:
    latents_N = torch.tensor([0, 3, 4, 9, 4, 8, 9, 9, 0], dtype=torch.int32)
    starts = torch.tensor([0, 4, 4, 7, 8], dtype=torch.int32)
    entries = Entries(torch.ones(9), latents_N, starts, 1)
    found = prefixes.by_prefix(entries, (1, 4, 9, 10))
    assert found.groups == 4
    expected = torch.tensor([0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 6, 7, 7, 7, 7, 8])
    assert torch.equal(found.starts, expected.int())
    assert prefixes.by_prefix(entries, (10,)) is entries
