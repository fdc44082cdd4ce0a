"""An import held against what the foreign library made of the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.peers.foreign import Imported
from saeserve.errors import DataMismatchError


@dataclass(frozen=True)
class Reference:
    """Rows [N, d_in], and their features [N, d_sae] and reconstruction [N, d_out], as known.

    Features are in the foreign library's units.
    """

    activations: Tensor
    features: Tensor | None
    reconstruction: Tensor | None
    tolerance: float


def check(imported: Imported, reference: Reference) -> dict[str, float]:
    """Largest differences, each relative to the largest value of its row.

    Raises DataMismatchError naming row and column where one exceeds the tolerance, or where
    shapes do not fit.
    """
    model = imported.model
    x_BD = reference.activations.float()
    _check_shape("activations", x_BD, (x_BD.shape[0], model.config.d_in))
    features = model.encode(x_BD)
    found: dict[str, float] = {"reference_rows": float(x_BD.shape[0])}
    if reference.features is not None:
        _check_shape("features", reference.features, (x_BD.shape[0], model.config.d_sae))
        expected_BF = reference.features.double() * imported.feature_scale_F
        got_BF = model.encode_dense(x_BD).double()
        found["reference_features"] = _compare("features", got_BF, expected_BF, reference)
    if reference.reconstruction is not None:
        expected_BO = reference.reconstruction.double()
        _check_shape("reconstruction", expected_BO, (x_BD.shape[0], model.config.d_out))
        got_BO = model.decode(features).double()
        found["reference_reconstruction"] = _compare(
            "reconstruction", got_BO, expected_BO, reference
        )
    return found


def _compare(name: str, got: Tensor, expected: Tensor, reference: Reference) -> float:
    largest = expected.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    difference = (got - expected).abs() / largest
    worst = int(difference.argmax())
    row, column = divmod(worst, difference.shape[1])
    value = float(difference[row, column])
    if value > reference.tolerance:
        raise DataMismatchError(
            f"row {row}, {name}[{column}]: the import gives {float(got[row, column]):.6g}, the "
            f"reference says {float(expected[row, column]):.6g}: {value:.2g} of the row's largest "
            f"value, more than {reference.tolerance:.2g}",
            remedy="check that the format, and the rows that the reference was made of, are right",
        )
    return value


def _check_shape(name: str, value: Tensor, expected: tuple[int, int]) -> None:
    if tuple(value.shape) != expected:
        raise DataMismatchError(
            f"the reference's {name} have shape {list(value.shape)}, expected {list(expected)}",
            remedy="make the reference with the model that is imported",
        )
