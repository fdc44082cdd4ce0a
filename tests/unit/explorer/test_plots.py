"""Plots: numbers of axes."""

from __future__ import annotations

import pytest

from saeserve.explorer.plots import tick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (0.001, "0.001"),
        (-2.5, "-2.5"),
        (1234.5, "1,234"),
        (120_000.0, "120k"),
        (1e6, "1M"),
        (2.5e9, "2.5G"),
        (1e-4, "10⁻⁴"),
        (2.5e-7, "2.5·10⁻⁷"),
        (-1e15, "-1·10¹⁵"),
    ],
)
def test_numbers_of_axes_are_short(value: float, text: str) -> None:
    assert tick(value) == text
