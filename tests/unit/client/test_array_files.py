"""Local files are known by their headers before a byte is sent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] - untyped

from saeserve.client.array_files import read_rows
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.upload_checks import check_matrices, check_references

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def safetensors(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


def npy(path: Path, array: Any) -> Path:  # noqa: ANN401 - any array
    np.save(path, array)
    return path


def npy_bfloat16(path: Path) -> Path:
    """As numpy.save writes an array of ml_dtypes.bfloat16."""
    npy(path, torch.as_tensor(X).bfloat16().view(torch.int16).numpy())
    path.write_bytes(path.read_bytes().replace(b"'<i2'", b"'<V2'"))
    return path


@pytest.mark.parametrize("dtype", TYPES)
def test_safetensors_of_every_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    path = safetensors(tmp_path / "x.safetensors", a=torch.as_tensor(X).to(dtype))
    rows = read_rows(path)
    assert np.array_equal(rows.flat().float32(), X)
    assert f"torch.{rows.dtype}" == str(dtype)
    check_matrices([path])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_type_is_read(tmp_path: Path, dtype: str, order: Any) -> None:  # noqa: ANN401 - numpy's word
    path = npy(tmp_path / "x.npy", np.array(X, dtype, order=order))
    assert np.array_equal(read_rows(str(path)).flat().float32(), X)
    check_matrices([path])


def test_npy_of_bfloat16_is_read(tmp_path: Path) -> None:
    rows = read_rows(npy_bfloat16(tmp_path / "x.npy"))
    assert rows.dtype == "bfloat16"
    assert np.array_equal(rows.flat().float32(), X)


def test_the_command_line_reads_the_same_files(tmp_path: Path) -> None:
    x = torch.as_tensor(X)
    for path in (
        npy(tmp_path / "x.npy", X.astype(np.float64)),
        npy_bfloat16(tmp_path / "b.npy"),
        safetensors(tmp_path / "x.safetensors", a=x.bfloat16()),
    ):
        assert np.array_equal(read_rows(path).flat().float32(), X)
    with pytest.raises(InvalidArgumentError, match="void16"):
        read_rows(npy(tmp_path / "v.npy", np.zeros((2, 2), "V2")))


def test_no_rows_are_read(tmp_path: Path) -> None:
    assert read_rows(npy(tmp_path / "x.npy", X[:0])).flat().shape == (0, 4)


def cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    return path


def text(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def forged(path: Path) -> Path:
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'
    return text(path, struct.pack("<Q", len(header)) + header + bytes(4))


UNREADABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.npy", "there is no .*none.npy"),
    "folder": (lambda folder: folder, "is a folder"),
    "empty": (lambda folder: text(folder / "x.npy", b""), "x.npy is empty"),
    "pickle": (
        lambda folder: npy(folder / "x.npy", np.array([object()], object)),
        "holds Python objects",
    ),
    "text": (lambda folder: text(folder / "x.npy", b"1.0, 2.0\n" * 9), "not a .npy file"),
    "cut": (lambda folder: cut(npy(folder / "x.npy", X)), "173 bytes where its header makes 176"),
    "cut safetensors": (
        lambda folder: cut(safetensors(folder / "x.safetensors", a=torch.ones(2, 2))),
        "bytes where its header",
    ),
    "empty safetensors": (lambda folder: text(folder / "x.safetensors", b""), "is empty"),
    "forged safetensors": (lambda folder: forged(folder / "x.safetensors"), "has 4 bytes"),
    "huge header": (
        lambda folder: text(folder / "x.safetensors", b"\xff" * 99),
        "its header claims",
    ),
    "other suffix": (lambda folder: text(folder / "x.pt", b"PK"), "neither .npy nor"),
    "void": (lambda folder: npy(folder / "x.npy", np.zeros((2, 2), "V2")), "of type void16"),
    "integers": (lambda folder: npy(folder / "x.npy", X.astype(int)), "of type int64"),
    "integer tensors": (
        lambda folder: safetensors(folder / "x.safetensors", a=torch.ones(2, 2).int()),
        "tensor a is of type I32",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_other_files_are_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    make, words = UNREADABLE[kind]
    path = make(tmp_path)
    looks: list[Callable[[Path], object]] = [read_rows, lambda each: check_matrices([each])]
    for look in looks:
        with pytest.raises(InvalidArgumentError, match=words) as caught:
            look(path)
        assert caught.value.remedy
        assert caught.value.reason
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4), (0, 4), (4, 0)])
def test_a_data_set_is_made_of_matrices(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = npy(tmp_path / "x.npy", np.zeros(shape, np.float32))
    with pytest.raises(InvalidArgumentError, match=r"a matrix \[rows, d\] is needed") as caught:
        check_matrices([path])
    assert caught.value.reason == "BAD_SHAPE"
    assert str(list(shape)) in caught.value.message


def test_all_files_of_a_data_set_are_looked_at(tmp_path: Path) -> None:
    good = npy(tmp_path / "good.npy", X)
    wide = npy(tmp_path / "wide.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(InvalidArgumentError, match=r"width 5, good\.npy of 4"):
        check_matrices([good, wide])
    with pytest.raises(InvalidArgumentError, match="there is no"):
        check_matrices([good, tmp_path / "typo.npy"])


def test_tensors_that_will_not_be_used_are_passed_over(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, 4), "ids": torch.ones(7).int(), "b": torch.ones(9, 4)}
    path = safetensors(tmp_path / "x.safetensors", **tensors)
    check_matrices([path], ["a"])
    with pytest.raises(InvalidArgumentError, match="differ in rows") as caught:
        check_matrices([path], ["a", "b"])
    assert "tensors=" in caught.value.remedy
    with pytest.raises(InvalidArgumentError, match="has no tensor c"):
        check_matrices([path], ["c"])
    with pytest.raises(InvalidArgumentError, match="ids is of type I32"):
        check_matrices([path])
    with pytest.raises(InvalidArgumentError, match="holds 3 tensors"):
        read_rows(path)


def test_references_are_matrices_of_as_many_rows(tmp_path: Path) -> None:
    x, f = npy(tmp_path / "x.npy", X), npy(tmp_path / "f.npy", np.zeros((3, 9)))
    short, flat = npy(tmp_path / "s.npy", X[:2]), npy(tmp_path / "flat.npy", X[0])
    model = text(tmp_path / "model.bin", b"anything")
    check_references({"model/a": model, "reference/activations.npy": x, "reference/f.npy": f})
    with pytest.raises(InvalidArgumentError, match="differ in rows"):
        check_references({"reference/activations.npy": x, "reference/features.npy": short})
    with pytest.raises(InvalidArgumentError, match="a matrix"):
        check_references({"reference/activations.npy": flat})


@pytest.mark.parametrize(
    ("name", "content", "cause", "remedy"),
    [
        ("a.npz", b"PK\x03\x04", "neither .npy nor .safetensors", "numpy.save"),
        ("a.pt", b"PK\x03\x04", "neither .npy nor .safetensors", "safetensors.torch.save_file"),
        ("a.npy", b"PK\x03\x04", "is an archive", "numpy.save"),
        ("a.npy", b"", "is empty", "again"),
        ("a.npy", b"hello there", "is not a .npy file", "numpy.save"),
        ("a.safetensors", b"PK\x03\x04", "is an archive", "numpy.save"),
    ],
)
def test_other_files_are_named_with_what_to_do(
    name: str, content: bytes, cause: str, remedy: str, tmp_path: Path
) -> None:
    """The one reader of what is encoded, reconstructed and uploaded."""
    (tmp_path / name).write_bytes(content)
    looks: list[Callable[[Path], object]] = [read_rows, lambda each: check_matrices([each])]
    for look in looks:
        with pytest.raises(InvalidArgumentError, match=cause) as caught:
            look(tmp_path / name)
        assert remedy in caught.value.remedy
