"""Sums over a gradient's rows, from the kernel that has just written it while its rows are cached.

The optimiser needs them before it can clip: without this it reads every gradient once more, which
is a sixth of its memory traffic. They hold for as long as neither the gradient nor its parameter is
changed, which torch counts; whoever adds to a gradient (AuxK, a second micro-batch) makes the
optimiser measure it again. Shape suffix: F rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from saeserve.core.kernels.compiled import Array


@dataclass(frozen=True)
class Moments:
    """What is known of a gradient."""

    of_3F: Array
    """<g, g> of each row, and of unit rows <g, w> and <w, w>, else 0; float64."""
    unit: bool
    state: tuple[int, ...]


_known: Any = WeakTensorKeyDictionary()


def keep(gradient: Tensor, parameter: Tensor, of_3F: Array, *, unit: bool) -> None:
    """Note what was measured of a gradient and its parameter as they are now."""
    _known[gradient] = Moments(of_3F, unit, _state(gradient, parameter))


def take(gradient: Tensor, parameter: Tensor, *, unit: bool) -> Array | None:
    """What is known of them [3, F], once; None where they must be measured."""
    found: Moments | None = _known.pop(gradient, None)
    if found is None or found.state != _state(gradient, parameter) or (unit and not found.unit):
        return None
    if not unit:
        found.of_3F[1:] = 0
    return found.of_3F


def changed(tensor: Tensor) -> None:
    """Have torch count a change that a kernel made past it."""
    torch.autograd.graph.increment_version(tensor)


def _state(gradient: Tensor, parameter: Tensor) -> tuple[int, ...]:
    versions = (cast("Any", each)._version for each in (gradient, parameter))
    return (parameter.data_ptr(), *versions)
