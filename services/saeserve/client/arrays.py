"""What users hold their activations in: arrays of numpy and others, torch tensors, lists, files.

torch is never imported: a tensor is known by its methods. bfloat16, which numpy lacks, is kept as
its 16 bits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Union, cast

import numpy as np
import numpy.typing as npt

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import FloatArray
from saeserve.client.refusals import bad_shape, bad_type


class TensorLike(Protocol):
    """A torch tensor, on any device, or whatever has its methods."""

    @property
    def shape(self) -> Sequence[int]:
        """Lengths of its axes."""
        ...

    def detach(self) -> TensorLike:
        """The tensor without its gradient."""
        ...


ArrayInput = Union[npt.ArrayLike, os.PathLike[str], TensorLike, "Rows"]
"""Arrays, tensors, nested lists of numbers, and paths of .npy or .safetensors files."""

_CONVERSION_ERRORS = (TypeError, ValueError, RuntimeError, BufferError, AttributeError)
_REMEDY = "pass float32, float16, bfloat16 or float64, e.g. x.astype(np.float32)"


@dataclass(frozen=True)
class Rows:
    """Activations [..., d] as they came: float16, float32, float64, or the bits of bfloat16."""

    data: npt.NDArray[Any]
    bfloat16: bool = False
    """Whether `data`, of uint16, holds the bits of bfloat16."""
    name: str = "activations"
    """What errors call it."""
    first: int = 0
    """Number of the first row in the batch that this is a part of."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        return self.data.shape

    @property
    def rows(self) -> int:
        """Rows, with the leading axes flattened."""
        return self.data.size // self.shape[-1]

    @property
    def dtype(self) -> str:
        """float16, bfloat16, float32 or float64."""
        return "bfloat16" if self.bfloat16 else self.data.dtype.name

    def flat(self) -> Rows:
        """The same as [rows, d]. Raises InvalidArgumentError when there is no row axis."""
        if self.data.ndim < 1 or self.shape[-1] == 0:
            raise bad_shape(
                f"{self.name} have shape {list(self.shape)}",
                field=self.name,
                remedy="pass an array of [..., d_in]",
            )
        return replace(self, data=self.data.reshape(-1, self.shape[-1]))

    def part(self, start: int, stop: int) -> Rows:
        """Rows start .. stop of [rows, d]."""
        return replace(self, data=self.data[start:stop], first=self.first + start)

    def float32(self) -> FloatArray:
        """The rows as float32. Raises InvalidArgumentError where float64 exceeds it."""
        if self.bfloat16:
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            narrow = self.data.astype(np.float32, copy=False)
        if self.data.dtype.itemsize > 4:
            self.refuse_overflow(np.isinf(narrow), "float32", "scale the activations down")
        return narrow

    def refuse_overflow(self, infinite: npt.NDArray[np.bool_], dtype: str, remedy: str) -> None:
        """Raise InvalidArgumentError where what is finite here is `infinite` in `dtype`."""
        if infinite.any():
            finite = np.isfinite(self.data) if not self.bfloat16 else np.isfinite(self.float32())
            self._refuse(infinite & finite, f"too large for {dtype}", "OVERFLOW", remedy)

    def refuse_not_finite(self) -> None:
        """Raise InvalidArgumentError for NaN and infinity."""
        bad = ~np.isfinite(self.float32())
        self._refuse(bad, "not finite", "NOT_FINITE", "send finite activations")

    def _refuse(self, bad: npt.NDArray[np.bool_], what: str, reason: str, remedy: str) -> None:
        if bad.any():
            place = tuple(int(each[0]) for each in np.nonzero(bad))
            value = float(self.float32()[place] if self.bfloat16 else self.data[place])
            where = f"entry {list(place)}"
            if len(place) == 2:
                where = f"row {self.first + place[0]}, column {place[1]}"
            raise InvalidArgumentError(
                f"{where} is {value:g}, {what}",
                reason=reason,
                field=self.name,
                remedy=remedy,
            )


def rows_of(value: ArrayInput, name: str = "activations") -> Rows:
    """Read what a user passed, [..., d], without copying where its type allows.

    Raises InvalidArgumentError for another type, naming what is accepted. Files are read by
    array_files.
    """
    if isinstance(value, Rows):
        return value
    if isinstance(value, list | tuple):
        return _of_list(cast("Sequence[Any]", value), name)
    if hasattr(value, "detach"):
        return _of_tensor(value, name)
    try:
        array = _array(value)
    except _CONVERSION_ERRORS as error:
        raise _no_array(value, name, str(error)) from error
    if array.dtype.hasobject:
        raise _no_array(value, name, "it holds objects, no numbers")
    return _checked(array, name)


def _array(value: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - whatever speaks one of numpy's protocols
    if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    return np.from_dlpack(value, device="cpu")


def _of_tensor(tensor: Any, name: str) -> Rows:  # noqa: ANN401 - torch is not imported
    """A torch tensor of any device; the bits of bfloat16 are taken as they are."""
    try:
        if str(tensor.dtype) == "torch.bfloat16":
            int16 = sys.modules[type(tensor.dtype).__module__].int16
            bits = tensor.detach().cpu().view(int16).numpy(force=True)
            return Rows(bits.view(np.uint16), bfloat16=True, name=name)
        return _checked(tensor.numpy(force=True), name)
    except _CONVERSION_ERRORS as error:
        raise _no_array(tensor, name, str(error)) from error


def _of_list(values: Sequence[Any], name: str) -> Rows:
    """Nested lists of numbers, or a list of arrays or tensors of one shape, as one array."""
    if any(hasattr(each, "shape") for each in values):
        parts = [rows_of(each, name) for each in values]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(list(part.shape)) for part in parts[:4])
            raise _no_array(values, name, f"its arrays have different shapes: {shapes}")
        if len({part.dtype for part in parts}) == 1:
            return replace(parts[0], data=np.stack([part.data for part in parts]))
        return Rows(np.stack([part.float32() for part in parts]), name=name)
    try:
        array = np.array(values)
    except ValueError as error:
        raise _no_array(values, name, "its rows have different lengths") from error
    # Numbers of Python have no width: what is written without a point is meant as a float too.
    return _checked(array.astype(np.float64) if array.dtype.kind in "iu" else array, name)


def _checked(array: npt.NDArray[Any], name: str) -> Rows:
    if array.dtype.name == "bfloat16":  # of the ml_dtypes package, which JAX uses
        return Rows(array.view(np.uint16), bfloat16=True, name=name)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise bad_type(f"{name} are {array.dtype}", field=name, remedy=_REMEDY)
    return Rows(array, name=name)


def _no_array(value: object, name: str, why: str) -> InvalidArgumentError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return bad_type(
        f"{name}: a {kind} cannot be read as an array: {why}",
        field=name,
        remedy="pass a dense array or tensor of floats, a list of rows, or the path of a file",
    )
