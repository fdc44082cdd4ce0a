"""Foreign files that are damaged or mean harm: refused by name, nothing run, nothing allocated."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes import peers
from tests.fakes.peers import D_SAE, D, read, weights
from torch import Tensor

from saeserve.core.peers.arrays import read_npy
from saeserve.core.peers.torch_file import read_torch
from saeserve.errors import FormatError


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def state() -> dict[str, object]:
    w = weights()
    return {
        "pre_bias": w["b_dec"],
        "latent_bias": w["b_enc"],
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_pickled_code_is_not_run(path: Path) -> None:
    mark = path.with_name("harm")
    torch.save({**state(), "extra": Harm(mark)}, path)
    with pytest.raises(FormatError, match=r"model\.pt is refused"):
        read(path, "openai")
    assert not mark.exists()


def test_a_whole_module_is_refused(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(FormatError, match="more than tensors"):
        read(path, "openai")


def test_a_bare_pickle_is_refused(path: Path) -> None:
    mark = path.with_name("harm")
    path.write_bytes(pickle.dumps(Harm(mark)))
    with pytest.raises(FormatError, match=r"not an archive of torch 1\.6"):
        read(path, "openai")
    assert not mark.exists()


def test_a_list_is_no_state_dict(path: Path) -> None:
    torch.save([torch.zeros(2)], path)
    with pytest.raises(FormatError, match="holds a list"):
        read_torch(path, lambda _values: None)


def test_a_truncated_pt_is_refused(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(FormatError):
        read(path, "openai")


def test_a_compressed_archive_is_refused(path: Path) -> None:
    """It could expand to any size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    with pytest.raises(FormatError, match="is compressed"):
        read(path, "openai")


def test_a_pickle_of_many_megabytes_is_refused(path: Path) -> None:
    torch.save({**state(), "activation": "x" * (5 * 2**20)}, path)
    with pytest.raises(FormatError, match=r"data\.pkl"):
        read(path, "openai")


def test_a_shape_that_the_file_cannot_hold_is_refused(path: Path) -> None:
    """Strides of zero make a terabyte of four bytes."""
    torch.save({**state(), "pre_bias": torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(FormatError, match="pre_bias has shape"):
        read(path, "openai")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_bias": torch.zeros(D + 1)}, "d is 9 elsewhere|d is 8 elsewhere"),
        ({"pre_bias": torch.zeros(D, dtype=torch.int32)}, "pre_bias is int32"),
        ({"pre_bias": torch.full((D,), torch.nan)}, "pre_bias holds NaN"),
        ({"latent_bias": torch.full((D_SAE,), torch.inf)}, "latent_bias holds infinite"),
        ({"latent_bias": "zero"}, "latent_bias is missing"),
        ({"surplus": torch.zeros(1)}, "'surplus' does not belong"),
        ({"activation": "Sigmoid"}, "activation is not imported"),
        ({"activation": "TopK"}, "k is missing"),
        ({"activation": "TopK", "activation_state_dict": {"k": 99}}, "with 24 latents"),
        (
            {"activation": "TopK", "activation_state_dict": {"k": 2, "postact_fn": "GELU"}},
            "GELU",
        ),
    ],
)
def test_wrong_content_of_a_pt_is_named(
    path: Path, changes: dict[str, object], message: str
) -> None:
    torch.save({**state(), **changes}, path)
    with pytest.raises(FormatError, match=message):
        read(path, "openai")


def test_a_safetensors_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    peers.write_saelens(tmp_path, weights())
    (tmp_path / "sae_weights.safetensors").write_bytes(struct.pack("<Q", 2**30) + b"{" * 100)
    with pytest.raises(FormatError, match="claims 1073741824 bytes"):
        read(tmp_path, "saelens")


@pytest.mark.parametrize(
    ("kept", "before"), [(slice(None, -10), b""), (slice(4), b""), (slice(None), b"\x80\x04")]
)
def test_damaged_safetensors_are_refused(tmp_path: Path, kept: slice, before: bytes) -> None:
    file = peers.write_saelens(tmp_path, weights()) / "sae_weights.safetensors"
    file.write_bytes(before + file.read_bytes()[kept])
    with pytest.raises(FormatError, match=r"cannot be read|claims"):
        read(tmp_path, "saelens")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W_dec", torch.zeros(D, D_SAE), "W_dec has shape"),
        ("W_dec", torch.zeros(D_SAE * D), "W_dec has shape"),
        ("b_enc", torch.zeros(D_SAE, dtype=torch.int8), "b_enc is I8"),
        ("threshold", torch.full((D_SAE,), torch.nan), "threshold holds NaN"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, name: str, value: Tensor, message: str) -> None:
    peers.write_saelens(tmp_path, {**weights(), name: value})
    with pytest.raises(FormatError, match=message):
        read(tmp_path, "saelens")


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": NaN'])
def test_json_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    peers.write_saelens(tmp_path, weights())
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(FormatError, match=r"cfg\.json"):
        read(tmp_path, "saelens")


def test_json_of_many_megabytes_is_not_parsed(tmp_path: Path) -> None:
    peers.write_saelens(tmp_path, weights())
    (tmp_path / "cfg.json").write_text(json.dumps({"a": "x" * (5 * 2**20)}))
    with pytest.raises(FormatError, match="exceeds"):
        read(tmp_path, "saelens")


def npz(folder: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(folder / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return folder


def array(value: np.ndarray[Any, Any], *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=pickled)
    return buffer.getvalue()


def header(length: int, text: bytes = b"") -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + text


def huge() -> bytes:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000)}\n"
    return header(len(text), text) + b"\0" * 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(2**30), "claims a header of 1073741824 bytes"),
        (huge(), "says"),
        (b"not numpy", "no numpy header"),
        (header(20, b"__import__('os')    "), "no numpy header"),
        (array(np.zeros(3), pickled=False)[:-8], "says"),
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(npz(tmp_path, W_enc=data), "gemma_scope")


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    data = array(np.array([Harm(mark)], dtype=object), pickled=True)
    with pytest.raises(FormatError, match="pickled code"):
        read(npz(tmp_path, W_enc=data), "gemma_scope")
    assert not mark.exists()


def test_an_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "params.npz").write_bytes(b"PK\x03\x04 but nothing else")
    with pytest.raises(FormatError, match=r"not an \.npz file"):
        read(tmp_path, "gemma_scope")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(4), "expected"),
        (np.zeros((2, 2), dtype=np.int64), "int64"),
        (np.full((2, 2), np.inf), "infinite"),
        (np.zeros((0, 2)), "expected"),
    ],
)
def test_reference_arrays_are_matrices_of_numbers(
    tmp_path: Path, value: np.ndarray[Any, Any], message: str
) -> None:
    np.save(tmp_path / "x.npy", value)
    with pytest.raises(FormatError, match=message):
        read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("order", ["<f4", ">f8", "<f2"])
def test_byte_orders_and_widths_are_read(tmp_path: Path, order: str) -> None:
    value = np.asfortranarray(np.arange(6, dtype=order).reshape(2, 3))
    np.save(tmp_path / "x.npy", value)
    expected = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert torch.equal(read_npy(tmp_path / "x.npy"), expected)


def test_references_of_bfloat16_are_read(tmp_path: Path) -> None:
    expected = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    bits = expected.bfloat16().view(torch.int16).numpy()
    np.save(tmp_path / "x.npy", np.asfortranarray(bits))
    data = (tmp_path / "x.npy").read_bytes().replace(b"'<i2'", b"'<V2'")
    (tmp_path / "x.npy").write_bytes(data)  # as numpy.save writes ml_dtypes' bfloat16
    assert torch.equal(read_npy(tmp_path / "x.npy"), expected)
