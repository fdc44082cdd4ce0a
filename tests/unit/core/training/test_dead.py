"""Dead latents are counted in tokens."""

from __future__ import annotations

import torch

from saeserve.core.training import dead


def test_counters_grow_by_tokens_and_fall_to_zero_on_firing() -> None:
    counters = dead.never_fired(3, torch.device("cpu"))
    for fired in ([1, 0, 0], [0, 5, 0], [0, 0, 0]):
        dead.update_(counters, torch.tensor(fired), batch_tokens=64)
    assert torch.equal(counters, torch.tensor([128, 64, 192]))


def test_a_latent_is_dead_once_the_window_has_passed() -> None:
    counters = torch.tensor([127, 128, 129])
    assert torch.equal(dead.mask(counters, 128), torch.tensor([False, True, True]))


def test_the_same_tokens_count_the_same_in_any_batch_size() -> None:
    small, large = (dead.never_fired(1, torch.device("cpu")) for _ in range(2))
    for _ in range(8):
        dead.update_(small, torch.tensor([0]), batch_tokens=16)
    dead.update_(large, torch.tensor([0]), batch_tokens=128)
    assert torch.equal(small, large)


def test_the_final_fraction_looks_at_half_a_short_run_and_at_ten_million_of_a_long_one() -> None:
    counters = torch.tensor([0, 499, 500, 9_999_999, 10_000_000])
    assert dead.final_fraction(counters, tokens=1000) == 3 / 5
    assert dead.final_fraction(counters, tokens=10**9) == 1 / 5
