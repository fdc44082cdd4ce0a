"""What a graph cannot record is not among the operations of a step that may be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from bench.gpu.budgets import steps
from bench.gpu.budgets.counting import Counting
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saeserve.core.architectures.contract import Batch, Context
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.gpu.launch import counted
from saeserve.core.ops.update import Optimizer
from saeserve.core.training.setup import adam_settings
from saeserve.core.training.step import compute_

WAITING = {"nonzero", "_local_scalar_dense", "bincount", "searchsorted", "_unique2", "multinomial"}
"""Operations for whose result the host waits."""
OF_LISTS = {"scatter_add_", "scatter_", "scatter_add"}
"""Those whose deterministic form copies strides from the host, unless they have one dimension."""


class Refusing(TorchDispatchMode):
    """Lists what CUDA refuses while a stream is captured."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.seen = 0
        self.refused: list[str] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
        name = func.overloadpacket.__name__
        listed = name in OF_LISTS and tensors[0].ndim > 1
        self.seen += 1
        if listed or name in WAITING or not all(t.is_meta for t in tensors):
            self.refused.append(name)
        return made


def recorded(name: str, dead: int) -> Refusing:
    """The second step of a run on the meta device, of the kind that is recorded."""
    shape = steps.SHAPES["S1"]
    spec = steps.spec_of(name, shape)
    state, architecture = steps.state_of(spec, shape), architecture_of(spec)
    x_BD = torch.empty(shape.batch, shape.d, device=steps.DEVICE)
    ctx: Context = steps._context(spec, state, dead)  # pyright: ignore[reportPrivateUsage]
    known = architecture.recordable(spec.architecture, ctx)
    assert known is not None
    scalar = torch.empty((), dtype=torch.float64, device=steps.DEVICE)
    numbers = dict.fromkeys(known.numbers, scalar)
    rates_R = torch.empty(6, device=steps.DEVICE)
    optimizer = Optimizer(adam_settings(spec), spec.optimizer.clip_norm, 1e-3, rates_R)
    ctx = replace(known.context, numbers=numbers)

    def step() -> None:
        compute_(architecture, spec.architecture, state, [Batch(x_BD, x_BD)], ctx, optimizer)

    with Counting(shape.batch * shape.m, lambda _: dead):
        step()
    with counted(), Refusing() as refusing:
        step()
    return refusing


@pytest.mark.parametrize("dead", [0, 900])
@pytest.mark.parametrize("name", steps.ARCHITECTURES)
def test_a_graph_can_record_every_operation(name: str, dead: int) -> None:
    found = recorded(name, dead)
    assert found.refused == []
    assert found.seen > 50
