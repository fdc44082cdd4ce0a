"""Keyed draws."""

from __future__ import annotations

import torch

from saeserve.core.ops.draws import generator


def test_equal_keys_draw_equally_whatever_was_drawn_before() -> None:
    first = torch.rand(5, generator=generator(1, 2, "rows"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(5, generator=generator(1, 2, "rows")))


def test_every_part_of_the_key_counts() -> None:
    keys = [(1, 2, "a"), (2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (12, 0, "a"), (1, 20, "a")]
    draws = {float(torch.rand(1, generator=generator(*key))) for key in keys}
    assert len(draws) == len(keys)
