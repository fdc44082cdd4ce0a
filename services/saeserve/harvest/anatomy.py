"""Which modules of a decoder layer stand for its sites, worked out from one recorded pass.

What attention and MLP add to the residual stream is found by the sum that it enters,
resid_pre + attn_out + mlp_out = resid_post. Names of modules are not relied on: one model's
post_attention_layernorm stands before the MLP, another's between attention and the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from saeserve.harvest.recording import Call

_ROUNDING = 16.0
"""Units of rounding of the terms' sizes by which a sum of three may be off."""


@dataclass(frozen=True)
class Term:
    """A module whose output times `scale` is added to the residual stream."""

    module: nn.Module
    scale: float


@dataclass(frozen=True)
class Anatomy:
    """The parts of one layer; a part that was not found is None."""

    layer: nn.Module
    once: bool
    """The layer ran once in the pass, and took and returned the residual stream."""
    attn: Term | None = None
    mlp: Term | None = None
    sequential: bool = False
    """Some module reads the stream between attention and MLP."""
    mlp_in: nn.Module | None = None
    """The module whose input is the input of the MLP."""
    attn_z: nn.Module | None = None
    """The module whose input is the heads' outputs side by side."""
    z_width: int = 0


def study(calls: Sequence[Call], scales: Sequence[float]) -> Anatomy:
    """The parts of the layer that `calls[0]` is; `scales` are the factors that may stand between
    a module's output and the stream."""
    layer = calls[0]
    x, y = layer.x_STD, layer.y_STD
    if layer.runs != 1 or x is None or y is None or x.shape != y.shape:
        return Anatomy(layer.module, once=False)
    ran = [call for call in calls[1:] if call.runs == 1]
    pair = _terms(x, y, ran, scales)
    if pair is None:
        return Anatomy(layer.module, once=True)
    first, second, scale = pair
    sources = [_source(call, ran) for call in (first, second)]
    attended = [_attends(call) for call in sources]
    if attended == [False, True]:
        first, second, sources, attended = second, first, sources[::-1], [True, False]
    attn = Term(first.module, scale) if attended[0] and not attended[1] else None
    mlp = Term(second.module, scale) if not attended[1] else None
    heads = _projection(sources[0], ran) if attn else None
    mlp_in = _mlp_input(sources[1], [call for call in calls if call.runs == 1]) if mlp else None
    return Anatomy(
        layer.module,
        once=True,
        attn=attn,
        mlp=mlp,
        sequential=attn is not None and _read_later(x, first, scale, ran),
        mlp_in=mlp_in.module if mlp_in else None,
        attn_z=heads.module if heads else None,
        z_width=heads.x_STD.shape[-1] if heads and heads.x_STD is not None else 0,
    )


def _terms(
    x: Tensor, y: Tensor, ran: Sequence[Call], scales: Sequence[float]
) -> tuple[Call, Call, float] | None:
    """Two modules, in the order in which they return, whose outputs make y of x; the shallowest,
    and of equal ones the first."""
    fitting = [call for call in ran if call.y_STD is not None and call.y_STD.shape == x.shape]
    fitting.sort(key=lambda call: (call.depth, call.order))
    for scale in scales:
        for pair in combinations(fitting, 2):
            first, second = sorted(pair, key=lambda call: call.order)
            if _adds_up(y, [(x, 1.0), *((_output(call), scale) for call in (first, second))]):
                return first, second, scale
    return None


def _output(call: Call) -> Tensor:
    assert call.y_STD is not None
    return call.y_STD


def _adds_up(total: Tensor, terms: Sequence[tuple[Tensor, float]]) -> bool:
    """Whether the terms' sum is `total`, value by value, up to the rounding of a sum in the
    tensors' type."""
    parts = [part.double() * scale for part, scale in terms]
    error = (total.double() - torch.stack(parts).sum(0)).abs()
    size = torch.stack([part.abs() for part in parts]).sum(0) + total.double().abs()
    return bool((error <= _ROUNDING * torch.finfo(total.dtype).eps * size).all())


def _source(call: Call, ran: Sequence[Call]) -> Call:
    """The module behind a norm: the one whose output the norm was given."""
    while (before := _producer(call, ran)) is not None and not _has_matrix(call.module):
        call = before
    return call


def _producer(call: Call, ran: Sequence[Call]) -> Call | None:
    """The outermost module that returned what `call` was given."""
    if call.x_STD is None:
        return None
    found = (
        other
        for other in sorted(ran, key=lambda other: (other.depth, -other.order))
        if other.order < call.order
        and not other.path.startswith(f"{call.path}.")
        and other.y_STD is not None
        and _equal(other.y_STD, call.x_STD)
    )
    return next(found, None)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def _attends(call: Call) -> bool:
    names = f"{call.path} {type(call.module).__name__}".lower()
    return "attn" in names or "attention" in names


def _read_later(x: Tensor, first: Call, scale: float, ran: Sequence[Call]) -> bool:
    """Whether a module that returns later was given x + first."""
    return any(
        call.order > first.order
        and call.x_STD is not None
        and call.x_STD.shape == x.shape
        and _adds_up(call.x_STD, [(x, 1.0), (_output(first), scale)])
        for call in ran
    )


def _projection(attention: Call, ran: Sequence[Call]) -> Call | None:
    """The linear layer that makes attention's output of its heads' outputs."""
    inside = [
        call for call in ran if call is attention or call.path.startswith(f"{attention.path}.")
    ]
    found = (
        call
        for call in sorted(inside, key=lambda call: -call.order)
        if _is_projection(call)
        and call.y_STD is not None
        and _equal(call.y_STD, _output(attention))
    )
    return next(found, None)


def _is_projection(call: Call) -> bool:
    leaf = not list(call.module.children())
    return leaf and call.x_STD is not None and _has_matrix(call.module)


def _mlp_input(mlp: Call, ran: Sequence[Call]) -> Call | None:
    """The module whose input is the MLP's: itself, or where it is only the last of the layer's
    linear maps, the first module that leads to it."""
    d = _output(mlp).shape[-1]
    for call in _leading_to(mlp, ran):
        if call.x_STD is not None and call.x_STD.shape[-1] == d and call.depth > 0:
            return call
    return None


def _leading_to(mlp: Call, ran: Sequence[Call]) -> Iterator[Call]:
    if not _is_projection(mlp):
        yield mlp
        return
    parents = [call for call in ran if call.path and mlp.path.startswith(f"{call.path}.")]
    yield from sorted(parents, key=lambda call: -call.depth)
    before = _producer(mlp, ran)
    while before is not None:
        yield before
        before = _producer(before, ran)
