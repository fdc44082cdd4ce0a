"""The histogram of firing frequencies."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.evaluation.density import density


def test_edges_belong_to_the_bin_above() -> None:
    histogram = density(torch.tensor([0, 1, 9, 10, 31, 32, 100, 1000, 0]), rows=1000)
    assert [(b.log10_lower, b.log10_upper, b.latents) for b in histogram.bins] == [
        (-3.0, -2.5, 1),
        (-2.5, -2.0, 1),
        (-2.0, -1.5, 2),
        (-1.5, -1.0, 1),
        (-1.0, -0.5, 1),
        (-0.5, 0.0, 0),
        (0.0, 0.5, 1),
    ]
    assert histogram.never_fired == 2


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_every_latent_is_counted_in_the_bin_that_holds_it(rows: int, fired: list[int]) -> None:
    fired = [min(count, rows) for count in fired]
    histogram = density(torch.tensor(fired), rows)
    assert histogram.never_fired == fired.count(0)
    for each in histogram.bins:
        inside = [n for n in fired if 10**each.log10_lower <= n / rows < 10**each.log10_upper and n]
        assert each.latents == len(inside)
    assert sum(each.latents for each in histogram.bins) + histogram.never_fired == len(fired)
