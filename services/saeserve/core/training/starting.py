"""The state before the first step: initialised from a sample, or continued from a form."""

from __future__ import annotations

import torch

from saeserve.core.architectures.contract import Dimensions, EvaluationForm, Tensors
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.sparsity import Controller
from saeserve.core.training.state import TrainerState

L0_ROWS = 2048
"""Rows on which the untrained model's L0 is measured."""


def initial_state(
    spec: TrainSpec,
    dims: Dimensions,
    source: ActivationSource,
    preprocessing: Prepares,
    initial: EvaluationForm | None,
    device: torch.device,
) -> TrainerState:
    """The architecture's own start, with what `initial` says in its place where it is given.

    Raises what the architecture's `initialise` and `from_form` raise.
    """
    architecture = architecture_of(spec)
    rows = spec.architecture.sample_rows(dims.d_sae)
    sample = dims.batch(preprocessing.apply(source.sample(rows, spec.seed)))
    params, carried = architecture.initialise(
        spec.architecture, dims, sample.x_BD, sample.target_BO, spec.seed
    )
    if initial is not None:
        params, carried = architecture.from_form(spec.architecture, initial, params, carried)
    state = TrainerState.initial(_on(device, params), _on(device, carried), dims.d_sae)
    form = architecture.evaluation_form(spec.architecture, state.params, state.architecture)
    rows = source.batch(0, min(spec.batch_size, L0_ROWS)).to(device)
    state.control = Controller(spec).start(form, dims.batch(preprocessing.apply(rows)))
    return state


def _on(device: torch.device, tensors: Tensors) -> Tensors:
    return {name: value.to(device).contiguous() for name, value in tensors.items()}
