"""Products with entries in rows of any length, against dense ones; compiled and in plain torch."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.architectures.active import entries


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@contextmanager
def form(name: str) -> Generator[None]:
    """The compiled form where numba is installed, or plain torch's."""
    if name == "compiled":
        yield
    else:
        with mock.patch.object(entries, "usable", return_value=False):
            yield


FORMS = pytest.mark.parametrize("name", ["compiled", "torch"])


@FORMS
@given(
    bags=st.integers(1, 30),
    count=st.integers(0, 60),
    latents=st.sampled_from([3, 500]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_products_are_the_dense_ones(
    name: str, bags: int, count: int, latents: int, seed: int
) -> None:
    """Empty bags, pairs that are listed twice, no entry at all; 3 latents take the dense path."""
    draws = torch.Generator().manual_seed(seed)
    bags_N = torch.randint(0, bags, (count,), generator=draws).sort().values
    latents_N = torch.randint(0, latents, (count,), generator=draws)
    values_N, y, W = (
        drawn(count, seed=seed),
        drawn(bags, 4, seed=seed + 1),
        drawn(latents, 4, seed=3),
    )
    dense = torch.zeros(bags * latents, dtype=torch.float64)
    dense = dense.index_add(0, bags_N * latents + latents_N, values_N).view(bags, latents)
    with form(name):
        combined = entries.combine(values_N, bags_N, latents_N, W, bags)
        dots = entries.dots(y, bags_N, latents_N, W)
        summed = entries.sum_by_latent(values_N, bags_N, latents_N, y, latents)
    torch.testing.assert_close(combined, dense @ W)
    torch.testing.assert_close(dots, (y @ W.T)[bags_N, latents_N])
    torch.testing.assert_close(summed, dense.T @ y)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    """Entries that fall on few latents, so that shares of threads are uneven; in float32."""
    draws = torch.Generator().manual_seed(1)
    latents_N = (torch.rand(5000, generator=draws) ** 4 * 70).long()
    bags_N = torch.arange(5000) // 10
    values_N, y = drawn(5000, seed=2).float(), drawn(500, 33, seed=3).float()
    W = drawn(70, 33, seed=4).float()
    found: list[tuple[Tensor, Tensor]] = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with mock.patch.object(entries, "DENSE_ABOVE", 100.0):
            summed = entries.sum_by_latent(values_N, bags_N, latents_N, y, 70)
        found.append((summed, entries.combine(values_N, bags_N, latents_N, W, 500)))
    torch.set_num_threads(before)
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@FORMS
def test_gradients_are_those_of_plain_autograd(name: str) -> None:
    bags_N, latents_N = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([1, 3, 0, 3, 6])
    x, weight = drawn(3, 4, seed=1), drawn(3, 5, seed=2)
    W, V = drawn(7, 4, seed=3).requires_grad_(), drawn(7, 5, seed=4).requires_grad_()
    b, b_pre = drawn(7, seed=5).requires_grad_(), drawn(4, seed=6).requires_grad_()
    plain_N = (((x - b_pre) @ W.T) + b)[bags_N, latents_N]
    codes = torch.zeros(3, 7, dtype=torch.float64).index_put((bags_N, latents_N), plain_N)
    inputs = (W, V, b, b_pre)
    expected = torch.autograd.grad(((codes @ V) * weight).sum(), inputs)
    with form(name):
        fast_N = entries.active_values(plain_N.detach(), bags_N, latents_N, x, W, b, b_pre)
        decoded = entries.decode(fast_N, bags_N, latents_N, V, 3)
        found = torch.autograd.grad((decoded * weight).sum(), inputs)
    assert torch.equal(fast_N, plain_N)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
