"""Explained variance; the rest of the handlers is tested through gRPC."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saeserve.inference.handlers import explained_variance


def test_equals_its_definition_over_several_blocks() -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=(9000, 3)) + 5).astype(np.float32)
    y = (x + 0.1 * random.normal(size=x.shape)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = 1 - np.square(wide - y).sum() / np.square(wide - wide.mean(axis=0)).sum()
    assert explained_variance(x, y) == pytest.approx(expected, rel=1e-9)


def test_a_perfect_reconstruction_explains_all() -> None:
    x = np.array([[1.0], [2.0]], np.float32)
    assert explained_variance(x, x) == 1.0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_that_do_not_vary_have_none(rows: int) -> None:
    x = np.full((rows, 4), 2.5, np.float32)
    assert math.isnan(explained_variance(x, x))
