"""Records what every module inside a decoder layer is given and returns in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from saeserve.harvest.layout import first_tensor, named_modules

Args = tuple[object, ...]
Kwargs = dict[str, object]


@dataclass
class Call:
    """One module of a layer, by its path in the layer ("" is the layer itself)."""

    path: str
    module: nn.Module
    order: int = -1
    """Place in the order in which modules returned; -1 for one that did not run."""
    runs: int = 0
    x_STD: Tensor | None = None
    """What it was given; None where that is not one row a position."""
    y_STD: Tensor | None = None
    """What it returned, likewise."""

    @property
    def depth(self) -> int:
        """Modules between it and the layer, itself included."""
        return self.path.count(".") + 1 if self.path else 0


def find_input(args: Args, kwargs: Kwargs) -> tuple[int | str, Tensor]:
    """The argument that holds the hidden states, and its value: the first tensor of floating
    point with one row a position. Raises LookupError where there is none."""
    named: list[tuple[int | str, object]] = [*enumerate(args)]
    if "hidden_states" in kwargs:
        named.append(("hidden_states", kwargs["hidden_states"]))
    for key, value in (*named, *kwargs.items()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (2, 3):
            return key, value
    raise LookupError("no argument holds hidden states")


def by_position(x: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """`x` as [S, T, d], which some modules keep as [S * T, d]; None where it is neither."""
    sequences, tokens = shape
    if x is None or x.shape[:2] == (sequences, tokens):
        return x if x is None or x.ndim == 3 else None
    if x.ndim == 2 and x.shape[0] == sequences * tokens:
        return x.reshape(sequences, tokens, -1)
    return None


class Recorder:
    """Hooks on all modules of one layer, for one pass over tokens of the shape [S, T]."""

    def __init__(self, layer: nn.Module, shape: Sequence[int]) -> None:
        self.calls = [Call(path, module) for path, module in named_modules(layer)]
        self._shape = shape
        self._order = 0
        self.handles: list[RemovableHandle] = []
        for call in self.calls:
            self.handles.append(self._before(call))
            self.handles.append(self._after(call))

    def _before(self, call: Call) -> RemovableHandle:
        def hook(_module: nn.Module, args: Args, kwargs: Kwargs) -> None:
            try:
                x = find_input(args, kwargs)[1]
            except LookupError:
                return
            call.x_STD = self._kept(x)

        return call.module.register_forward_pre_hook(hook, with_kwargs=True)

    def _after(self, call: Call) -> RemovableHandle:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            call.y_STD = self._kept(first_tensor(output))
            call.runs += 1
            call.order = self._order
            self._order += 1

        return call.module.register_forward_hook(cast("Any", hook))

    def _kept(self, x: Tensor | None) -> Tensor | None:
        """A copy: modules that follow may change the tensor in place."""
        rows = by_position(x, self._shape)
        return None if rows is None else rows.detach().clone()
