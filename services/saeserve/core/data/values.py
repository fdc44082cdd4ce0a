"""Checks of activation values on their way into storage."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError

_WIDER: dict[StorageType, str] = {
    "float16": "store as bfloat16 or float32 (dtype)",
    "bfloat16": "store as float32 (dtype)",
    "float32": "scale the activations down",
}


def to_storage(
    x_ND: Tensor, dtype: StorageType, *, source: str, file: str, first_row: int
) -> Tensor:
    """`x_ND` in the storage type, [N, d].

    Raises DataError for NaN, for infinity, and for values that `dtype` cannot hold, naming
    `file` and the row, where x_ND[0] is row `first_row`.
    """
    stored_ND = x_ND.to(STORAGE[dtype])
    # Finite values of these types cannot overflow a float64 sum, and a sum shows any NaN or
    # infinity, so the usual case costs one pass and no mask.
    if bool(torch.isfinite(stored_ND.sum(dtype=torch.float64))):
        return stored_ND
    bad_ND = ~torch.isfinite(stored_ND)
    row, column = (int(i) for i in bad_ND.nonzero()[0])
    value = float(x_ND[row, column])
    where = f"{source}, column {column}"
    at = first_row + row
    if not torch.isfinite(x_ND[row, column]):
        raise DataError(
            f"{where} is {value}",
            shard=file,
            row=at,
            remedy="remove the row, or compute the activations in a wider type",
        )
    raise DataError(
        f"{where} is {value:g}, beyond {dtype}'s largest value {torch.finfo(STORAGE[dtype]).max:g}",
        shard=file,
        row=at,
        remedy=_WIDER[dtype],
    )


def row_norms(stored_ND: Tensor) -> Tensor:
    """Euclidean norms of the rows as stored, float32 [N]; infinite where that cannot hold them."""
    return stored_ND.double().square().sum(1).sqrt().float()


def check_norms(norms_N: Tensor, *, source: str, file: str, first_row: int) -> None:
    """Raise DataError, naming `file` and the row, for norms beyond float32."""
    bad_N = ~torch.isfinite(norms_N)
    if bool(bad_N.any()):
        raise DataError(
            f"the norm of {source} exceeds float32",
            shard=file,
            row=first_row + int(bad_N.nonzero()[0]),
            remedy="scale the activations down",
        )
