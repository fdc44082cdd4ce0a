"""How fast this machine trains, by training a little: what `specs.speed` scales from.

Every architecture takes a few real steps on random rows at one width and two batch sizes; the line
through the two fastest parts what a row costs from what a step costs. Beside them stand the rates
of the encoder's product and of the optimiser. The fastest counts, since whatever else the machine
does only adds time. Some twenty seconds, where compiled kernels are at hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.ops.adam import AdamSettings, Moments, adam_step_
from saeserve.core.specs.architectures import ARCHITECTURE_SPECS
from saeserve.core.specs.machine import StepTiming
from saeserve.core.specs.speed import active_of
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.events import MetricsReported
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

D_IN, D_SAE, ROWS = 512, 8448, (512, 2048)
"""The larger [rows, d_sae] in float32 exceeds 32 MiB and is mapped anew every time, as in runs."""
WARM_STEPS, STEPS = 1, 6
"""The first steps compile kernels and touch memory; of the others the fastest counts."""
ENOUGH_S = 1.5
"""A measurement of steps ends after this time too, once a step beyond the first ones is done."""
LARGEST_SHARE = 0.9
"""Of a batch's time that may belong to the step: a line through noise could say more."""
PRODUCT = (512, 512, 4096)
"""Rows, inputs and latents of the encoder's product."""
OPTIMISED = 2**24
"""Parameters of the optimiser's measurement: more than caches hold."""
BYTES_A_PARAMETER = 28
"""Adam reads weight, gradient and two moments and writes all but the gradient."""
REPEATS = 5


@dataclass(frozen=True)
class Rates:
    """FLOP and bytes a second."""

    float32_flops: float
    bfloat16_flops: float
    adam_bytes_per_second: float


def measure_rates(device: torch.device) -> Rates:
    """Of the encoder's product in both types, and of the optimiser."""
    return Rates(
        float32_flops=_product_flops(torch.float32, device),
        bfloat16_flops=_product_flops(torch.bfloat16, device),
        adam_bytes_per_second=_adam_bytes(device),
    )


def measure_steps(device: torch.device) -> Iterator[StepTiming]:
    """Of one architecture after the other, at its default settings."""
    return (measure_step(name, device) for name in ARCHITECTURE_SPECS)


def measure_step(architecture: str, device: torch.device, d_sae: int = D_SAE) -> StepTiming:
    """Of one architecture."""
    few, many = (_step_seconds(_spec(architecture, rows, d_sae), device) for rows in ROWS)
    per_row = (many - few) / (ROWS[1] - ROWS[0])
    per_step = min(max(many - per_row * ROWS[1], 0.0), LARGEST_SHARE * min(few, many))
    spec = _spec(architecture, ROWS[0], d_sae)
    return StepTiming(
        architecture=architecture,
        d_in=D_IN,
        d_sae=d_sae,
        active=active_of(spec, 0.0),
        encoder_dtype=spec.encoder_dtype,
        seconds_per_row=(many - per_step) / ROWS[1],
        seconds_per_step=per_step,
    )


def _spec(architecture: str, rows: int, d_sae: int) -> TrainSpec:
    # The mean in place of the geometric median saves time and changes no step.
    fields = ARCHITECTURE_SPECS[architecture].model_fields
    chosen = {"b_dec_init": "mean"} if "b_dec_init" in fields else {}
    spec = TrainSpec.parse(
        {
            "dataset": "calibration",
            "model": "calibration",
            architecture: chosen,
            "d_sae": d_sae,
            "tokens": rows * (WARM_STEPS + STEPS),
            "batch_size": rows,
            "log_every_steps": 1,
        },
        "calibration",
    )
    return resolve(spec, D_IN, "calibration")


def _step_seconds(spec: TrainSpec, device: torch.device) -> float:
    """The fastest step, the first ones left out."""
    setup = TrainingSetup(
        spec=spec,
        dims=Dimensions(D_IN, D_IN, spec.d_sae),
        source=_Rows(spec.batch_size),
        preprocessing=Preprocessing(torch.zeros(D_IN), 1.0),
        device=device,
    )
    rates = list(_reported(Trainer.start(setup)))
    return spec.batch_size / max(rates[WARM_STEPS:])


def _reported(trainer: Trainer) -> Iterator[float]:
    """Rows a second of every step. The report reads the step's metrics, hence waits for it."""
    ends = math.inf

    def stop() -> bool:
        return trainer.step > WARM_STEPS and time.perf_counter() > ends

    for event in trainer.run(_NoSink(), stop):
        if isinstance(event, MetricsReported):
            if event.step == WARM_STEPS:
                ends = time.perf_counter() + ENOUGH_S
            yield event.values["tokens_per_second"]


class _Rows:
    """A source of the same random rows over and over."""

    def __init__(self, rows: int) -> None:
        drawn = torch.Generator().manual_seed(0)
        self._x_BD = torch.randn(max(rows, 2 * D_IN), D_IN, generator=drawn)

    @property
    def d(self) -> int:
        return D_IN

    @property
    def rows(self) -> int:
        return self._x_BD.shape[0]

    def batch(self, position: int, size: int) -> Tensor:  # noqa: ARG002 - the source's signature
        return self._x_BD[:size]

    def sample(self, n: int, seed: int) -> Tensor:  # noqa: ARG002 - the source's signature
        return self._x_BD[:n]


class _NoSink:
    """Keeps no checkpoint."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:  # noqa: ARG002 - the sink's signature
        return 0


def _product_flops(dtype: torch.dtype, device: torch.device) -> float:
    rows, d_in, d_sae = PRODUCT
    x_BD = torch.randn(rows, d_in, device=device).to(dtype)
    W_FD = torch.randn(d_sae, d_in, device=device).to(dtype)
    b_F = torch.zeros(d_sae, device=device, dtype=dtype)
    return 2.0 * rows * d_in * d_sae / _best(lambda: torch.addmm(b_F, x_BD, W_FD.T), device)


def _adam_bytes(device: torch.device) -> float:
    params = {"W": torch.zeros(OPTIMISED, device=device)}
    gradients = {"W": torch.ones(OPTIMISED, device=device)}
    moments, settings = Moments.zeros(params), AdamSettings(0.9, 0.999, 1e-8)
    return (
        BYTES_A_PARAMETER
        * OPTIMISED
        / _best(lambda: adam_step_(params, gradients, moments, settings, lr=1e-4, step=1), device)
    )


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few runs: what else the machine does only adds time."""
    return min(_timed(work, device) for _ in range(1 + REPEATS))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
