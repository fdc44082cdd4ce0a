"""From gradients to parameters: project, global norm, clip, Adam, renormalise, in this order
(Gao et al. 2024, arXiv 2406.04093, appendix A.1).

Written out in `reference_`, which runs where no kernels do. With numba on the CPU, and with Triton
on a GPU, the same is two passes over the memory: one measures gradients, the other moves parameters
and moments.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve.core.gpu import shadows
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.kernels import measures, update_passes
from saeserve.core.kernels.compiled import Array, array, usable
from saeserve.core.ops import norms
from saeserve.core.ops.adam import AdamSettings, Moments, adam_step_
from saeserve.core.ops.rows import Tensors

SMALLEST_MOMENT = 2.0**-126
"""The smallest normal float32: two passes set smaller moments to zero. Those of latents without
gradient would be kept above zero by rounding, as denormals, which make a step twice as long."""


@dataclass(frozen=True)
class Optimizer:
    """Adam's settings of the run, the limit of the global norm (0: none), the rate of a step."""

    adam: AdamSettings
    clip_norm: float
    lr: float
    rates_R: Tensor | None = None
    """`rates` in memory, where steps are recorded; then neither `lr` nor `step` is read."""


def update_(
    params: Tensors,
    gradients: Tensors,
    moments: Moments,
    unit_rows: Collection[str],
    optimizer: Optimizer,
    step: int,
) -> Tensor:
    """Update `params` and `moments` in place; `step` counts from 0. The gradients are used up.

    Returns the global norm of the projected gradients before the clip (scalar); where it is NaN,
    every parameter is. Raises TypeError for `Optimizer.rates_R` where no kernels run.
    """
    groups = (params, gradients, moments.first, moments.second)
    tensors = [value for named in groups for value in named.values()]
    if usable_on_device(*tensors) and _fits_on_device(params):
        return _on_device_(params, gradients, moments, unit_rows, optimizer, step)
    if usable(*tensors):
        return _two_passes_(params, gradients, moments, unit_rows, optimizer, step)
    if optimizer.rates_R is not None:
        raise TypeError("rates in memory are for kernels, which do not run on these tensors")
    return reference_(params, gradients, moments, unit_rows, optimizer, step)


def reference_(
    params: Tensors,
    gradients: Tensors,
    moments: Moments,
    unit_rows: Collection[str],
    optimizer: Optimizer,
    step: int,
) -> Tensor:
    """`update_` by one torch operation after another, without synchronisation."""
    for name in unit_rows:
        norms.project_rows_(gradients[name], params[name])
    # Sorted, because sums depend on their order and a loaded state has another one.
    ordered = [gradients[name] for name in sorted(gradients)]
    norm = norms.global_norm(ordered)
    norms.clip_(ordered, norm, optimizer.clip_norm)
    adam_step_(params, gradients, moments, optimizer.adam, lr=optimizer.lr, step=step)
    for name in unit_rows:
        norms.renormalise_rows_(params[name])
    return norm


def _fits_on_device(params: Tensors) -> bool:
    from saeserve.core.gpu import update

    return update.fits(params.values())


def _on_device_(
    params: Tensors,
    gradients: Tensors,
    moments: Moments,
    unit_rows: Collection[str],
    optimizer: Optimizer,
    step: int,
) -> Tensor:
    """The two passes in Triton, without synchronisation; they keep the low-precision copies of
    weights up to date (`core.gpu.shadows`)."""
    from saeserve.core.gpu import scalars, update

    rates_R = optimizer.rates_R
    if rates_R is None:
        device = next(iter(params.values())).device
        rates_R = scalars.written(update.Rates(*rates(optimizer, step)), device)
    found = {name: shadows.known(value) for name, value in params.items()}
    return update.update_(
        params,
        gradients,
        (moments.first, moments.second),
        frozenset(unit_rows),
        {name: shadow for name, shadow in found.items() if shadow is not None},
        optimizer.clip_norm,
        rates_R,
        norms.SMALLEST_NORM,
    )


def _two_passes_(
    params: Tensors,
    gradients: Mapping[str, Tensor],
    moments: Moments,
    unit_rows: Collection[str],
    optimizer: Optimizer,
    step: int,
) -> Tensor:
    along: dict[str, Array] = {}
    squares = 0.0
    for name in sorted(gradients):
        moments_3F = _measured(gradients[name], params[name], name in unit_rows)
        along[name] = moments_3F[1].astype(array(params[name]).dtype)
        squares += _projected_square(*moments_3F)
    norm = math.sqrt(squares)
    for name, along_F in along.items():
        update_passes.move(
            _rows(params[name]),
            _rows(gradients[name]),
            _rows(moments.first[name]),
            _rows(moments.second[name]),
            along_F,
            name in unit_rows,
            _constants(optimizer, norm, step, along_F.dtype.type),
            norms.SMALLEST_NORM,
        )
        measures.changed(params[name])
    return torch.tensor(norm, dtype=torch.float64)


def _measured(gradient: Tensor, parameter: Tensor, unit: bool) -> Array:
    """<g, g> of each row, and of unit rows <g, w> and <w, w>, else 0: float64 [3, F]."""
    known_3F = measures.take(gradient, parameter, unit=unit)
    if known_3F is not None:
        return known_3F
    g_FD, w_FD = _rows(gradient), _rows(parameter)
    moments_3F = np.empty((3, len(g_FD)))
    update_passes.measure(g_FD, w_FD, unit, moments_3F)
    return moments_3F


def _projected_square(of_g_F: Array, along_F: Array, of_w_F: Array) -> float:
    """Sum over the rows of |g - <g, w> w|^2, whatever the norm of w."""
    with np.errstate(invalid="ignore", over="ignore"):
        left_F = of_g_F - along_F * along_F * (2.0 - of_w_F)
    # Rounding may leave less than nothing; asked this way round, NaN stays NaN.
    return float(np.where(left_F < 0.0, 0.0, left_F).sum())


def _rows(tensor: Tensor) -> Array:
    """The tensor's memory as a matrix; a vector is one row."""
    return array(tensor if tensor.ndim == 2 else tensor.reshape(1, -1))


def _constants(
    optimizer: Optimizer, norm: float, step: int, kind: type[np.floating]
) -> update_passes.Constants:
    limit = optimizer.clip_norm
    # Asked this way round, a NaN norm makes the factor, and so every parameter, NaN.
    factor = 1.0 if limit == 0 or norm <= limit else limit / norm
    values = (factor, *rates(optimizer, step), 0.0, SMALLEST_MOMENT)
    return update_passes.Constants(*map(kind, values))


def rates(optimizer: Optimizer, step: int) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, and rate and eps with both bias corrections."""
    if optimizer.rates_R is not None:
        return tuple(float(rate) for rate in optimizer.rates_R)
    adam = optimizer.adam
    root = math.sqrt(1 - adam.beta2 ** (step + 1))
    rate = optimizer.lr * root / (1 - adam.beta1 ** (step + 1))
    return adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2, rate, adam.eps * root
