"""Tensors of a foreign file, checked by their headers before their bytes are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from saeserve.errors import FormatError

Shape = tuple[int, ...]
Layout = Mapping[str, tuple[str, ...]]
"""Name of each tensor to the names of its axes; equal names must have equal lengths."""

FLOATS = ("float64", "float32", "float16", "bfloat16")
_AGAIN = "save the model again with its library, or name the format that it has"


@dataclass(frozen=True)
class Header:
    """What a file says of a tensor before it is read; `dtype` as torch and numpy call it."""

    dtype: str
    shape: Shape


@dataclass(frozen=True)
class TensorTable:
    """The tensors of one file. `read` gives a tensor by its name, in the type that it has."""

    file: str
    headers: Mapping[str, Header]
    read: Callable[[str], Tensor]
    admit: Callable[[int], None]
    """Called with how many numbers are about to be read; raises where they do not fit."""
    dims: dict[str, int] = field(default_factory=dict[str, int])
    """Lengths of the axes, once `take` has seen them."""

    def take(
        self,
        layout: Layout,
        dims: Mapping[str, int] | None = None,
        ignore: frozenset[str] = frozenset(),
    ) -> dict[str, Tensor]:
        """The tensors of `layout`, floating point and finite (thresholds may be infinite).

        `dims` are the lengths that the model's config states; `ignore` names tensors that may
        also be there. Raises FormatError, naming the tensor, before anything is read.
        """
        self._check_names(set(layout), ignore)
        self.dims.update(dims or {})
        for name, axes in layout.items():
            self._check_header(name, axes)
        self.admit(sum(prod(self.headers[name].shape) for name in layout))
        tensors = {name: self.read(name) for name in layout}
        for name, value in tensors.items():
            self._check_values(name, value)
        return tensors

    def integer(self, name: str) -> int:
        """A tensor of one whole number. Raises FormatError for anything else."""
        header = self.headers.get(name)
        if header is None or header.shape not in ((), (1,)) or "int" not in header.dtype:
            raise self._wrong(name, "is not a single whole number")
        return int(self.read(name).reshape(()))

    def scalar(self, name: str) -> float:
        """A tensor of one number that is not NaN. Raises FormatError for anything else."""
        header = self.headers.get(name)
        if header is None or header.shape not in ((), (1,)) or header.dtype not in FLOATS:
            raise self._wrong(name, "is not a single floating-point number")
        value = float(self.read(name).reshape(()))
        if value != value:
            raise self._wrong(name, "is NaN")
        return value

    def _check_names(self, wanted: set[str], ignore: frozenset[str]) -> None:
        for name in sorted(wanted - set(self.headers)):
            raise FormatError(f"{self.file}: tensor {name} is missing", remedy=_AGAIN)
        for name in sorted(set(self.headers) - wanted - ignore):
            raise FormatError(
                f"{self.file}: tensor {name!r} does not belong to this form", remedy=_AGAIN
            )

    def _check_header(self, name: str, axes: tuple[str, ...]) -> None:
        header = self.headers[name]
        if header.dtype not in FLOATS:
            raise self._wrong(name, f"is {header.dtype}, not floating point")
        if len(header.shape) != len(axes) or 0 in header.shape:
            raise self._wrong(name, f"has shape {list(header.shape)}, expected {list(axes)}")
        for axis, length in zip(axes, header.shape, strict=True):
            known = self.dims.setdefault(axis, length)
            if known != length:
                raise self._wrong(
                    name, f"has shape {list(header.shape)}, but {axis} is {known} elsewhere"
                )

    def _check_values(self, name: str, value: Tensor) -> None:
        if bool(value.isnan().any()):
            raise self._wrong(name, "holds NaN")
        if name != "threshold" and not bool(torch.isfinite(value).all()):
            raise self._wrong(name, "holds infinite values")

    def _wrong(self, name: str, what: str) -> FormatError:
        return FormatError(f"{self.file}: tensor {name} {what}", remedy=_AGAIN)
