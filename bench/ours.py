"""Trains one of our SAEs in this process, through the trainer that jobs use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saeserve.core.architectures.contract import Dimensions, EvaluationForm
from saeserve.core.data.preprocess import Prepares, Preprocessing, fit_preprocessing
from saeserve.core.data.source import ActivationSource
from saeserve.core.export.fold import fold
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

SOURCE = "activations"


class NoCheckpoints:
    """Benchmarks are not resumed."""

    def commit(self, step: int, write: Callable[[Path], None]) -> int:  # noqa: ARG002 - the sink's signature
        """Keep nothing."""
        return 0


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    model: InferenceModel
    trainer: Trainer
    preprocessing: Preprocessing


def train(
    fields: Mapping[str, Any], source: ActivationSource, fitted: ActivationSource
) -> InferenceModel:
    """The exported model of a train spec's `fields`, as `run` trains it."""
    return run(fields, source, fitted).model


def run(fields: Mapping[str, Any], source: ActivationSource, fitted: ActivationSource) -> Trained:
    """A finished run of a train spec's `fields`; data set and model names are filled in.

    Centre and scale come from the rows of `fitted`.
    """
    spec = resolved(fields, source.d)
    preprocessing = fit_preprocessing(fitted, spec.preprocess)
    trainer = Trainer.start(setup(spec, source, preprocessing))
    for _event in trainer.run(NoCheckpoints(), lambda: False):
        pass
    return Trained(exported(trainer, preprocessing), trainer, preprocessing)


def resolved(fields: Mapping[str, Any], d: int) -> TrainSpec:
    """The whole spec of `fields` for rows of width `d`."""
    known = {"dataset": "bench", "model": "bench", "log_every_steps": 100, "device": "cpu"}
    return resolve(TrainSpec.parse(known | dict(fields), "train"), d, SOURCE)


def setup(
    spec: TrainSpec,
    source: ActivationSource,
    preprocessing: Prepares,
    initial: EvaluationForm | None = None,
) -> TrainingSetup:
    """What a trainer of `spec` stands on, on the CPU."""
    return TrainingSetup(
        spec=spec,
        dims=Dimensions(source.d, source.d, spec.d_sae),
        source=source,
        preprocessing=preprocessing,
        device=torch.device("cpu"),
        initial=initial,
    )


def exported(trainer: Trainer, preprocessing: Preprocessing) -> InferenceModel:
    """The model as it is published."""
    return fold(
        trainer.form(),
        preprocessing,
        architecture=trainer.spec.architecture.name,
        source=SOURCE,
        lineage=Lineage(spec=trainer.spec.to_json()),
    )
