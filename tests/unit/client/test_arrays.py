"""What users hold their activations in is taken, or refused saying what would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from saeserve.client.array_files import read_rows
from saeserve.client.errors import InvalidArgumentError

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


class OnlyDlpack:
    """An array of a library that numpy knows by DLPack alone; `device` 1 is the CPU."""

    def __dlpack__(self, **_options: object) -> object:
        return X.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class OnDevice:
    """A tensor of an accelerator: numpy takes it only after it was moved."""

    dtype = torch.float32
    shape = X.shape

    def detach(self) -> OnDevice:
        return self

    def numpy(self, *, force: bool = False) -> np.ndarray:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return X


ACCEPTED: dict[str, Any] = {
    "float32": X,
    "float16": X.astype(np.float16),
    "float64": X.astype(np.float64),
    "big-endian": X.astype(">f4"),
    "fortran": np.asfortranarray(X),
    "lists": X.tolist(),
    "integers in lists": X.astype(int).tolist(),
    "tuples": tuple(map(tuple, X.tolist())),
    "list of arrays": list(X),
    "list of tensors": list(torch.as_tensor(X)),
    "list of bfloat16": list(torch.as_tensor(X).bfloat16()),
    "mixed list": [X[0], torch.as_tensor(X[1]).bfloat16(), torch.as_tensor(X[2]).double()],
    "torch": torch.as_tensor(X),
    "torch bfloat16": torch.as_tensor(X).bfloat16(),
    "torch float16": torch.as_tensor(X).half(),
    "torch float64": torch.as_tensor(X).double(),
    "torch with a gradient": torch.as_tensor(X).clone().requires_grad_(),
    "torch bfloat16 with a gradient": torch.as_tensor(X).bfloat16().requires_grad_(),
    "torch transposed": torch.as_tensor(X.T.copy()).T,
    "torch bfloat16 transposed": torch.as_tensor(X.T.copy()).bfloat16().T,
    "DLPack": OnlyDlpack(),
    "on a device": OnDevice(),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_values_are_those_given(kind: str) -> None:
    assert np.array_equal(read_rows(ACCEPTED[kind]).flat().float32(), X)


def test_leading_axes_are_kept() -> None:
    rows = read_rows(torch.as_tensor(X).reshape(1, 3, 4).bfloat16())
    assert (rows.shape, rows.flat().shape, rows.rows) == ((1, 3, 4), (3, 4), 3)


REFUSED: dict[str, tuple[Any, str]] = {
    "int32": (X.astype(np.int32), "float32"),
    "bool": (X > 0, "float32"),
    "complex": (X.astype(complex), "float32"),
    "long double": (X.astype(np.longdouble), "float32"),
    "text": (np.array([["a", "b"]]), "float32"),
    "torch int": (torch.ones(2, 2, dtype=torch.int64), "float32"),
    "torch float8": (torch.ones(2, 2).to(torch.float8_e4m3fn), "list of rows"),
    "torch sparse": (torch.as_tensor(X).to_sparse(), "dense"),
    "torch meta": (torch.empty(2, 2, device="meta"), "dense"),
    "ragged": ([[1.0], [2.0, 3.0]], "different lengths"),
    "ragged arrays": ([X[0], X[0, :2]], "different shapes"),
    "dict": ({"a": X}, "dict"),
    "None": (None, "NoneType"),
    "objects in a list": ([[object()]], "float32"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_naming_the_remedy(kind: str) -> None:
    value, text = REFUSED[kind]
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        read_rows(value)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason == "BAD_TYPE"
    assert caught.value.field == "activations"


@pytest.mark.parametrize("value", [np.float32(1.0), np.zeros((3, 0), np.float32), []])
def test_rows_need_columns(value: Any) -> None:  # noqa: ANN401 - anything
    with pytest.raises(InvalidArgumentError, match="d_in") as caught:
        read_rows(value).flat()
    assert caught.value.reason == "BAD_SHAPE"
