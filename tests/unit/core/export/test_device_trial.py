"""Rows that part by chance are not taken for kernels that compute something else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.fakes.later_device import SmallEncoder
from tests.fakes.small_model import small_model
from torch import Tensor

from saeserve.core.export.device_model import PackedFeatures
from saeserve.core.export.device_trial import disagreement
from saeserve.core.formats.model import ThresholdActivation

MODEL = small_model(ThresholdActivation())


class Silent(SmallEncoder):
    """Finds no value in the first `rows` rows of the largest scale."""

    rows = 0

    def encode(self, x_BD: Tensor) -> PackedFeatures:
        kept_BD, largest_B = x_BD.clone(), x_BD.square().sum(1).argsort(descending=True)
        kept_BD[largest_B[: self.rows]] = 0.0
        return super().encode(kept_BD)


@pytest.mark.parametrize(("rows", "agrees"), [(0, True), (3, True), (25, False)])
def test_most_rows_decide(rows: int, agrees: bool) -> None:
    silent = dataclasses.replace(MODEL, b_enc=torch.zeros_like(MODEL.b_enc))
    encoder = Silent(silent)
    encoder.rows = rows
    why = disagreement(silent, encoder)
    assert (why == "") is agrees
    assert agrees or "rows with features differ" in why
