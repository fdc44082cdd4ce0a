"""What a training run stands on, and whether it can."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Dimensions, EvaluationForm
from saeserve.core.data.lane import Lane
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource
from saeserve.core.ops.adam import AdamSettings
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.recording import Recorder
from saeserve.errors import DataMismatchError, SpecError


@dataclass(frozen=True)
class TrainingSetup:
    """A resolved spec and what it runs on.

    Rows of `source` hold the input, followed by a transcoder's target.
    """

    spec: TrainSpec
    dims: Dimensions
    source: ActivationSource
    preprocessing: Prepares
    device: torch.device
    initial: EvaluationForm | None = None
    """What a fresh start continues from, of the same rows and widths (`init_from`)."""
    lane: Lane | None = None
    """The way to the device where several runs share one; each has its own by default."""
    graphs: bool = True
    """Whether steps are recorded as graphs where the device has them; the bits are the same."""
    recorder: Recorder | None = None
    """What records them; by default the device's own recorder."""
    data_sha256: str = ""
    """SHA-256 of the manifest of the data set that the rows come from, if they do; a resumed run
    must have the same."""


class OneRank:
    """The collective of a run on one rank: every sum is its own."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """`value` itself."""
        return value


def check(setup: TrainingSetup) -> None:
    """Raise DataMismatchError or SpecError where a run cannot start."""
    dims = setup.dims
    wanted = dims.d_in + (dims.d_out if setup.spec.target_source is not None else 0)
    if setup.source.d != wanted:
        raise DataMismatchError(
            f"the source is {setup.source.d} wide and the model {wanted}",
            remedy="train on a source of the model's width",
        )
    resolved(setup.spec.optimizer.lr, "train.optimizer.lr")


def adam_settings(spec: TrainSpec) -> AdamSettings:
    """Adam's settings of a resolved spec; raises SpecError for another."""
    settings = spec.optimizer
    eps = resolved(settings.eps, "train.optimizer.eps")
    return AdamSettings(settings.beta1, settings.beta2, eps)


def resolved(value: float | None, field: str) -> float:
    """The value, which `resolve` must have set; raises SpecError naming the field."""
    if value is None:
        raise SpecError(field, "is not resolved", remedy="call specs.training.resolve first")
    return value
