"""A step of every architecture at three shapes, on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from bench import ours
from bench.gpu.budgets.counting import Counting, Counts
from bench.gpu.lab import Shape
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context, Dimensions
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.ops.precision import encoder_dtype
from saeserve.core.ops.update import Optimizer
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import dead
from saeserve.core.training.setup import OneRank, adam_settings
from saeserve.core.training.sparsity import Controller
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import take_step

SHAPES = {
    "S1": Shape(768, 24_576, 32, 8192),
    "S2": Shape(4096, 65_536, 64, 8192),
    "S3": Shape(2304, 16_384, 64, 8192),
}
"""A small model's residual stream with a wide dictionary; a large one's; Gemma 2 2B's."""
MULTI = 0.125
"""Weight of Multi-TopK where it is on."""
ARCHITECTURES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "topk": ("topk", {}),
    "multi-topk": ("topk", {"multi_topk_coefficient": MULTI}),
    "batchtopk": ("batchtopk", {}),
    "matryoshka": ("matryoshka", {}),
    "jumprelu": ("jumprelu", {}),
    "relu": ("relu", {}),
    "gated": ("gated", {}),
}
"""By the name in the table: the architecture, and what differs from its defaults."""
DEVICE = torch.device("meta")
STEP, STEPS = 1000, 100_000
"""The step that is counted, of so many: schedules have begun and none has ended."""
TINY = Dimensions(11, 11, 13)
"""Widths at which the start is really computed, to see what has which shape."""
SAMPLE_ROWS = 64


def spec_of(name: str, shape: Shape) -> TrainSpec:
    """The resolved spec of an entry of ARCHITECTURES, with all defaults."""
    architecture, fields = ARCHITECTURES[name]
    own = dict(fields)
    if architecture in ("topk", "batchtopk", "matryoshka"):
        own["k"] = shape.k
    known = {"d_sae": shape.m, "tokens": STEPS * shape.batch, "batch_size": shape.batch}
    return ours.resolved(known | {architecture: own}, shape.d)


def count(name: str, shape: Shape, dead_latents: int = 0) -> Counts:
    """What a step does in which so many latents are dead, as the host knows without waiting."""

    def found(asked: Tensor) -> int:
        """Dead latents; else entries that may be among the chosen ones: a tenth more than these."""
        of_latents = asked.numel() in (1, shape.m)
        return dead_latents if of_latents else ceil(1.1 * asked.numel() * shape.k / shape.m)

    spec = spec_of(name, shape)
    state = state_of(spec, shape)
    rows_BD = torch.empty(shape.batch, shape.d, device=DEVICE)
    counting = Counting(shape.batch * shape.m, found)
    counting.hold((*state.tensors().values(), rows_BD))
    with counting:
        _step(spec, state, rows_BD, dead_latents)
        # The first step also makes what later ones find.
        counting.restart()
        _step(spec, state, rows_BD, dead_latents)
    return counting.counts


def _step(spec: TrainSpec, state: TrainerState, rows_BD: Tensor, dead_bound: int) -> None:
    controller = Controller(spec)
    l0 = take_step(
        architecture_of(spec),
        spec.architecture,
        state,
        iter([Batch(rows_BD, rows_BD)]),
        _context(spec, state, dead_bound),
        Optimizer(adam_settings(spec), spec.optimizer.clip_norm, 1e-3),
    )
    state.control = controller.after_step(state.control, l0, state.step)


def state_of(spec: TrainSpec, shape: Shape) -> TrainerState:
    """The state of a run at full width, of the shapes that a tiny one has."""
    sample = torch.randn(SAMPLE_ROWS, TINY.d_in, generator=torch.Generator().manual_seed(0))
    widths = {TINY.d_in: shape.d, TINY.d_sae: shape.m}

    def full(tensor: Tensor) -> Tensor:
        size = [widths[width] for width in tensor.shape]
        return torch.empty(size, dtype=tensor.dtype, device=DEVICE)

    architecture = architecture_of(spec)
    start = architecture.initialise(spec.architecture, TINY, sample, sample, seed=0)
    form = architecture.evaluation_form(spec.architecture, *start)
    control = Controller(spec).start(form, Batch(sample, sample))
    params, carried, controlled = (
        {name: full(tensor) for name, tensor in tensors.items()} for tensors in (*start, control)
    )
    state = TrainerState.initial(params, carried, shape.m)
    state.control = controlled
    state.step = STEP
    return state


def _context(spec: TrainSpec, state: TrainerState, dead_bound: int) -> Context:
    controller = Controller(spec)
    scheduled = architecture_of(spec).scheduled(spec.architecture, state.step, STEPS)
    return Context(
        step=state.step,
        steps=STEPS,
        scheduled={name: v for name, v in scheduled.items() if name != controller.replaces},
        dead_F=dead.mask(state.tokens_since_fired_or_resampled_F, spec.dead_window_tokens),
        seed=spec.seed,
        collective=OneRank(),
        encoder_dtype=encoder_dtype(spec, DEVICE),
        control=controller.control(state.control, state.step),
        dead_bound=dead_bound,
    )
