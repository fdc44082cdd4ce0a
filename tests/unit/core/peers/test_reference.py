"""An import held against a reference batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.fakes import peers
from tests.fakes.peers import D_SAE, D, read, rows, weights

from saeserve.core.peers.foreign import Imported
from saeserve.core.peers.reference import Reference, check
from saeserve.errors import DataMismatchError


@pytest.fixture
def imported(tmp_path: Path) -> Imported:
    return read(peers.write_saelens(tmp_path, weights()), "saelens")


def reference(*, subtracts: bool = True) -> Reference:
    """What SAELens makes of the rows, in its own units; or what someone else would."""
    w = {name: value.double() for name, value in weights().items()}
    x_BD = rows().double()
    h_BF = (x_BD - w["b_dec"] * subtracts) @ w["W_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    return Reference(x_BD, f_BF, f_BF @ w["W_dec"] + w["b_dec"], 1e-5)


def test_a_faithful_import_passes(imported: Imported) -> None:
    found = check(imported, reference())
    assert found["reference_rows"] == 64
    assert 0 < found["reference_features"] < 1e-5
    assert 0 < found["reference_reconstruction"] < 1e-5


def test_another_convention_is_found_by_row_and_latent(imported: Imported) -> None:
    with pytest.raises(DataMismatchError, match=r"row \d+, features\[\d+\]: the import gives"):
        check(imported, reference(subtracts=False))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activations", torch.zeros(64, D + 1)),
        ("features", torch.zeros(64, D_SAE - 1)),
        ("reconstruction", torch.zeros(63, D)),
    ],
)
def test_shapes_must_fit(imported: Imported, name: str, value: torch.Tensor) -> None:
    with pytest.raises(DataMismatchError, match=f"reference's {name} have shape"):
        check(imported, dataclasses.replace(reference(), **{name: value}))
