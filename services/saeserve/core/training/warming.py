"""Loads what training needs on its way to the first step, before there is anything to train.

Two steps of every architecture on a few random rows make numba load its kernels from its cache, or
compile them where the cache is cold, and torch start its threads. Nothing of it stays: models,
rows and generators are the function's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

D_IN, D_SAE, BATCH, STEPS = 16, 64, 64, 2


def warm_up() -> Iterator[str]:
    """The name of each architecture whose kernels are loaded by now; the caller may leave off."""
    for name in ARCHITECTURE_SPECS:
        _train(name)
        yield name


def _train(architecture: str) -> None:
    spec = TrainSpec.parse(
        {
            "dataset": "warm-up",
            "model": "warm-up",
            architecture: {},
            "d_sae": D_SAE,
            "tokens": STEPS * BATCH,
            "batch_size": BATCH,
        },
        "train",
    )
    setup = TrainingSetup(
        spec=resolve(spec, D_IN, "warm-up"),
        dims=Dimensions(D_IN, D_IN, D_SAE),
        source=_Rows(),
        preprocessing=Preprocessing(torch.zeros(D_IN), 1.0),
        device=torch.device("cpu"),
    )
    for _ in Trainer.start(setup).run(_NoSink(), lambda: False):
        pass


class _Rows:
    """A source of the same random rows over and over."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(0)
        self._x_BD = torch.randn(BATCH, D_IN, generator=drawn)

    @property
    def d(self) -> int:
        return D_IN

    @property
    def rows(self) -> int:
        return BATCH

    def batch(self, position: int, size: int) -> Tensor:  # noqa: ARG002 - the source's signature
        return self._x_BD.repeat(-(-size // BATCH), 1)[:size]

    def sample(self, n: int, seed: int) -> Tensor:  # noqa: ARG002 - the source's signature
        return self._x_BD[:n]


class _NoSink:
    """Keeps no checkpoint."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:  # noqa: ARG002 - the sink's signature
        return 0
