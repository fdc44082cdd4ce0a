"""The calibration: what it measures and what it makes of noise. No figure is asserted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saeserve.core.specs.architectures import ARCHITECTURE_SPECS
from saeserve.core.training import calibration

CPU = torch.device("cpu")
D_SAE = 64


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURE_SPECS))
def test_every_architecture_can_be_measured(architecture: str) -> None:
    timing = calibration.measure_step(architecture, CPU, D_SAE)
    assert (timing.architecture, timing.d_sae) == (architecture, D_SAE)
    assert timing.seconds_per_row > 0
    assert timing.seconds_per_step >= 0


def test_rates_are_measured() -> None:
    rates = calibration.measure_rates(CPU)
    assert min(rates.float32_flops, rates.bfloat16_flops, rates.adam_bytes_per_second) > 0


def measured(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[float]:
    """Seconds a row and a step, as made of the times of steps of so many rows."""

    def step_seconds(spec: calibration.TrainSpec, _device: torch.device) -> float:
        return seconds(spec.batch_size)

    monkeypatch.setattr(calibration, "_step_seconds", step_seconds)
    timing = calibration.measure_step("topk", CPU, D_SAE)
    return [timing.seconds_per_row, timing.seconds_per_step]


def test_a_line_parts_rows_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, lambda rows: 1e-4 * rows + 0.02) == pytest.approx([1e-4, 0.02])


def test_noise_never_makes_rows_or_steps_cheaper_than_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, many = calibration.ROWS
    per_row, per_step = measured(monkeypatch, {few: 0.5, many: 0.1}.__getitem__)
    assert per_row == pytest.approx(0.1 * (1 - calibration.LARGEST_SHARE) / many)
    assert per_step == pytest.approx(0.1 * calibration.LARGEST_SHARE)
    per_row, per_step = measured(monkeypatch, {few: 0.001, many: 1.0}.__getitem__)
    assert (per_row, per_step) == (pytest.approx(1 / many), 0.0)
