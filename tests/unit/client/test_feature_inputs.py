"""What can be decoded is one and the same, however it is held; what is wrong is found here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] - untyped

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.feature_inputs import features_of
from saeserve.client.features import SparseFeatures

DENSE = np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, -4.5]], np.float32)
CSR = SparseFeatures(
    (3, 4),
    np.array([0, 2, 2, 4]),
    np.array([1, 3, 0, 3]),
    np.array([2, 1, 3, -4.5], np.float32),
    "models/sae/versions/1",
    statistics=np.ones((3, 2), np.float32),
)


ACCEPTED: dict[str, Any] = {
    "features": CSR,
    "dense": DENSE,
    "dense float64": DENSE.astype(np.float64),
    "lists": DENSE.tolist(),
    "torch": torch.as_tensor(DENSE),
    "torch bfloat16": torch.as_tensor(DENSE).bfloat16(),
    "torch COO": torch.as_tensor(DENSE).to_sparse(),
    "scipy": scipy.sparse.csr_array(DENSE),
    "scipy COO": scipy.sparse.coo_array(DENSE),
    "lists in features": SparseFeatures(
        (3, 4),
        CSR.offsets.tolist(),
        CSR.indices.tolist(),
        CSR.values.tolist(),  # pyright: ignore[reportArgumentType] - what is tried
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_features_are_those_given(kind: str) -> None:
    assert np.array_equal(features_of(ACCEPTED[kind]).to_dense(), DENSE)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_csr_of_torch_is_taken() -> None:
    assert np.array_equal(features_of(torch.as_tensor(DENSE).to_sparse_csr()).to_dense(), DENSE)


def test_leading_axes_of_dense_features_are_kept() -> None:
    assert features_of(DENSE.reshape(1, 3, 4)).shape == (1, 3, 4)


def test_large_dense_features_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve.client.feature_inputs._DENSE_BYTES", 16)
    assert np.array_equal(features_of(DENSE).to_dense(), DENSE)


def test_files_give_back_all_that_was_saved(tmp_path: Path) -> None:
    CSR.save(tmp_path / "f.npz")
    back = features_of(tmp_path / "f.npz")
    assert np.array_equal(back.to_dense(), DENSE)
    assert back.model == CSR.model
    assert back.statistics is not None
    assert np.array_equal(back.statistics, np.ones((3, 2)))
    loaded = SparseFeatures.load(tmp_path / "f.npz")
    assert {field.name for field in dataclasses.fields(loaded)} == set(vars(CSR))
    np.save(tmp_path / "dense.npy", DENSE)
    assert np.array_equal(features_of(str(tmp_path / "dense.npy")).to_dense(), DENSE)


@pytest.mark.parametrize("name", ["features.bin", "features", "features.npy"])
def test_saved_features_are_known_by_their_contents(tmp_path: Path, name: str) -> None:
    CSR.save(tmp_path / name)
    assert np.array_equal(features_of(tmp_path / name).to_dense(), DENSE)


def test_dense_features_of_a_safetensors_file(tmp_path: Path) -> None:
    save_file({"features": torch.as_tensor(DENSE).bfloat16()}, tmp_path / "f.safetensors")
    assert np.array_equal(features_of(tmp_path / "f.safetensors").to_dense(), DENSE)


@pytest.mark.parametrize("data", [b"", b"no archive at all"])
def test_other_files_are_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.npz").write_bytes(data)
    np.savez(tmp_path / "other.npz", a=DENSE)
    for name in ("f.npz", "other.npz"):
        with pytest.raises(InvalidArgumentError, match=f"{name} holds no features"):
            features_of(tmp_path / name)


def changed(**fields: Any) -> SparseFeatures:  # noqa: ANN401 - any field
    return dataclasses.replace(CSR, **fields)


WRONG: dict[str, tuple[Any, str]] = {
    "index too large": (changed(indices=np.array([1, 3, 0, 4])), "row 2 has an index"),
    "index that would wrap": (changed(indices=np.array([1, 3, 0, 65539])), "row 2 has an index"),
    "negative index": (changed(indices=np.array([-1, 3, 0, 3])), "row 0 has an index"),
    "falling": (changed(indices=np.array([3, 1, 0, 3])), "row 0 has indices that do not"),
    "twice": (changed(indices=np.array([1, 3, 3, 3])), "row 2 has indices that do not"),
    "NaN": (changed(values=np.array([2, 1, np.nan, 1], np.float32)), "row 2 has a value"),
    "too large": (changed(values=np.array([2, 1, 1e39, 1])), "too large for float32"),
    "short values": (changed(values=np.ones(3, np.float32)), "4 indices and 3 values"),
    "falling offsets": (changed(offsets=np.array([0, 3, 2, 4])), "ascend"),
    "offsets from 1": (changed(offsets=np.array([1, 2, 2, 4])), "ascend"),
    "few offsets": (changed(offsets=np.array([0, 2, 4])), "does not fit 3 offsets"),
    "no latents": (changed(shape=(3, 0)), "does not fit"),
    "float indices": (changed(indices=np.ones(4)), "integers"),
    "statistics": (changed(statistics=np.ones((2, 2), np.float32)), "statistics"),
    "dense NaN": (np.array([[0.0], [np.nan]]), "row 1, column 0 is nan"),
    "integers": (DENSE.astype(int), "float32"),
    "sparse of three axes": (torch.as_tensor(DENSE).reshape(1, 3, 4).to_sparse(), "not a matrix"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_before_it_is_sent(kind: str) -> None:
    value, text = WRONG[kind]
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        features_of(value)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason
