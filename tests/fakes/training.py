"""Tiny training runs: specs, setups, a sink of folders, and the evaluation form written out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.fakes.sources import PlantedSource
from torch import Tensor

from saeserve.core.architectures.contract import Context, Dimensions, EvaluationForm
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.data.source import ActivationSource
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.events import MetricsReported, TrainingEvent
from saeserve.core.training.setup import OneRank, TrainingSetup
from saeserve.core.training.trainer import Trainer

D, F = 16, 48
TINY: dict[str, dict[str, Any]] = {
    "topk": {"k": 4, "k_aux": 8},
    "relu": {"sparsity_coefficient": 0.5, "decoder_norm": 0.5, "auxk_coefficient": 1 / 32},
    "gated": {"sparsity_coefficient": 0.5},
    "jumprelu": {"sparsity_coefficient": 20.0},
    "batchtopk": {"k": 4, "k_aux": 8},
    "matryoshka": {
        "k": 4,
        "k_aux": 8,
        "k_initial": 6,
        "widths": [8, 24, F],
        "detach_inner": True,
        "sort_by_frequency": True,
        "sort_every_steps": 3,
    },
}
"""Settings of each architecture that suit the tiny size; the rest are its defaults."""
PENALISED: dict[str, Any] = {"sparsity_coefficient": 0.5}
"""Those of an architecture with a penalty that is not listed."""


def tiny_spec(name: str, **changes: object) -> TrainSpec:
    """A resolved spec of 50 steps of 64 rows, in float32 whatever the hardware has."""
    fields: dict[str, Any] = {
        "dataset": "tiny",
        "model": "tiny",
        name: TINY.get(name, PENALISED),
        "d_sae": F,
        "tokens": 50 * 64,
        "batch_size": 64,
        "optimizer": {"lr": 3e-3, "warmup_steps": 0},
        "log_every_steps": 1,
        "checkpoint_every_steps": 10,
        "encoder_dtype": "float32",
    }
    return resolve(TrainSpec.parse(fields | changes, "train"), D, "planted")


def tiny_setup(
    spec: TrainSpec, source: ActivationSource | None = None, dims: Dimensions | None = None
) -> TrainingSetup:
    """`spec` on planted features, scaled to about sqrt(d) as real data are."""
    return TrainingSetup(
        spec=spec,
        dims=dims or Dimensions(D, D, spec.d_sae),
        source=source or PlantedSource(features=24, d=D, active=3, seed=1),
        preprocessing=Preprocessing(torch.full((D,), 0.01), 2.0),
        device=torch.device("cpu"),
    )


def context(d_sae: int, dead: list[int] | None = None, **changes: Any) -> Context:  # noqa: ANN401 - any field of Context
    """The context of a first step, with these latents dead."""
    dead_F = torch.zeros(d_sae, dtype=torch.bool)
    dead_F[dead or []] = True
    fields: dict[str, Any] = {
        "step": 0,
        "steps": 50,
        "scheduled": {},
        "dead_F": dead_F,
        "seed": 0,
        "collective": OneRank(),
    }
    return Context(**(fields | changes))


class FolderSink:
    """Keeps every checkpoint under `root`, by step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[int] = []

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        folder = self.root / str(step)
        folder.mkdir(parents=True)
        write(folder)
        self.steps.append(step)
        return sum(path.stat().st_size for path in folder.iterdir())


class SlowSink(FolderSink):
    """Commits when it is allowed to, on whatever thread it is called; `ended` after the first."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may = threading.Event()
        self.ended = threading.Event()
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        assert self.may.wait(60)
        self.threads.append(threading.current_thread())
        try:
            if self.error is not None:
                raise self.error
            return super().commit(step, write)
        finally:
            self.ended.set()


def run_all(trainer: Trainer, sink: FolderSink) -> list[TrainingEvent]:
    """Every event of an undisturbed run."""
    return list(trainer.run(sink, lambda: False))


def run_until(trainer: Trainer, sink: FolderSink, step: int) -> list[TrainingEvent]:
    """Every event of a run that is asked to stop once `step` steps are done."""
    return list(trainer.run(sink, lambda: trainer.step >= step))


def losses(events: list[TrainingEvent]) -> list[float]:
    """The reported losses in order."""
    return metric(events, "loss")


def metric(events: list[TrainingEvent], key: str) -> list[float]:
    """The reported values of one metric in order."""
    return [event.values[key] for event in events if isinstance(event, MetricsReported)]


def features_of(form: EvaluationForm, x_BD: Tensor) -> Tensor:
    """Features [B, F] by the evaluation form's definition."""
    h_BF = x_BD @ form.W_enc_FD.T + form.b_enc_F
    if form.threshold_F is not None:
        return torch.where(h_BF > form.threshold_F, h_BF, 0.0)
    if form.k is None:
        return h_BF.relu()
    top = h_BF.topk(form.k, dim=1)
    return torch.zeros_like(h_BF).scatter(1, top.indices, top.values.relu())


def reconstruction_of(form: EvaluationForm, x_BD: Tensor) -> Tensor:
    """Reconstructions [B, O] by the evaluation form's definition."""
    return features_of(form, x_BD) @ form.W_dec_FO + form.b_dec_O
