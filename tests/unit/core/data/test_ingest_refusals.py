"""Foreign files that are refused, and what the error says."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.fakes.datasets import save_tensors

from saeserve.core.data.ingest import ingest
from saeserve.core.specs.jobs import IngestSpec
from saeserve.errors import DataError, SpecError


def spec(**values: object) -> IngestSpec:
    return IngestSpec.parse({"dataset": "foreign", "shard_rows": 4, **values}, "ingest")


def run(files: list[Path], folder: Path, how: IngestSpec | None = None) -> None:
    for _ in ingest(files, how or spec(), folder, "foreign", lambda: False):
        pass


def npy(array: NDArray[Any]) -> Callable[[Path], object]:
    return lambda path: np.save(path, array)


def raw(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def npy_header(text: str, version: int = 1, claimed: int | None = None) -> Callable[[Path], object]:
    body = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(body) if claimed is None else claimed)
    return raw(b"\x93NUMPY" + bytes([version, 0]) + size + body)


def tensors(**values: torch.Tensor) -> Callable[[Path], object]:
    return lambda path: save_tensors(path, values)


def tensors_cut(path: Path) -> None:
    save_tensors(path, {"x": torch.ones((9, 2))})
    path.write_bytes(path.read_bytes()[:-1])


def npy_cut(path: Path) -> None:
    np.save(path, np.ones((9, 2), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-1])


def npy_longer(path: Path) -> None:
    np.save(path, np.ones((9, 2), dtype=np.float32))
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"x": 1}))


def objects(path: Path) -> None:
    np.save(path, np.array([[1, None]], dtype=object), allow_pickle=True)


def safetensors_header(header: dict[str, Any], data: bytes) -> Callable[[Path], object]:
    text = json.dumps(header).encode()
    return raw(struct.pack("<Q", len(text)) + text + data)


ONE = np.ones((3, 2), dtype=np.float32)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
CASES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("a.npy", npy(ONE.astype(np.int32)), "of type int32; accepted are float16", "float32"),
    ("a.npy", npy(ONE.astype(np.longdouble)), "of type float128", "float32"),
    ("a.npy", npy(np.zeros((3, 2), "V2")), "of type void16", "float32"),
    (
        "a.npy",
        npy(ONE * np.array([[1], [1], [1e39]])),
        "column 0 is 1e\\+39, beyond float32",
        "scale",
    ),
    ("a.npy", npy(np.ones((2, 3, 4), dtype=np.float32)), r"shape \[2, 3, 4\]", "reshape"),
    ("a.npy", npy(np.array(1, dtype=np.float32)), r"shape \[\]", "reshape"),
    ("a.npy", npy(np.ones((0, 4), dtype=np.float32)), r"shape \[0, 4\] and so holds nothing", ""),
    ("a.npy", npy(np.ones((4, 0), dtype=np.float32)), "holds nothing", "leave the file out"),
    ("a.npy", npy(np.zeros(3, dtype=[("x", "<f4")])), "of type", "float32"),
    ("a.npy", objects, "of type object", "float32"),
    ("a.npy", pickled, "cannot be read as .npy", "allow_pickle=False"),
    ("a.npy", raw(b""), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_cut, r"has 199 bytes where its header \[9, 2\] float32 makes 200", "cut short"),
    ("a.npy", npy_longer, "has 204 bytes", "appended to"),
    ("a.npy", npy_header(HEADER % "(10**9, 2)"), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_header(HEADER % "(1000000000000, 2)"), "makes 8000000000", "cut short"),
    ("a.npy", npy_header(HEADER % "(-3, 2)"), "holds nothing", "leave"),
    ("a.npy", npy_header("(" * 3000), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_header("{[]: 1}"), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_header("x" * 9000), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_header("x", version=2, claimed=2**31), "cannot be read as .npy", "numpy.save"),
    ("a.npy", npy_header("x", version=3), "version", "numpy.save"),
    ("a.npz", raw(b"PK\3\4"), "neither .npy nor .safetensors", "convert"),
    ("a.pt", pickled, "neither .npy nor .safetensors", "may run code"),
    ("a.safetensors", tensors(x=torch.ones((3, 2)).int()), "tensor x is of type I32", "float32"),
    (
        "a.safetensors",
        tensors(x=torch.full((3, 2), -1e39, dtype=torch.float64)),
        "x, column 0 is -1e\\+39, beyond float32",
        "scale",
    ),
    ("a.safetensors", tensors(x=torch.ones(3)), r"tensor x has shape \[3\]", "reshape"),
    ("a.safetensors", tensors(x=torch.ones((0, 2))), "holds nothing", "leave the file out"),
    (
        "a.safetensors",
        tensors(x=torch.ones((3, 2)), y=torch.ones((4, 2))),
        r"differ in rows \(x: 3, y: 4\)",
        "same rows",
    ),
    (
        "a.safetensors",
        tensors(x=torch.ones((3, 2)), y=torch.ones((3, 2)).half()),
        "differ in dtype",
        "same dtype",
    ),
    ("a.safetensors", tensors_cut, "cannot be read as safetensors", "cut short"),
    ("a.safetensors", raw(b""), "cannot be read as safetensors", "write the file again"),
    ("a.safetensors", pickled, "safetensors", ""),
    ("a.safetensors", raw(struct.pack("<Q", 2**40) + b"{"), "header claims", "fewer tensors"),
    ("a.safetensors", safetensors_header({}, b""), "holds no tensors", "leave the file out"),
    (
        "a.safetensors",
        safetensors_header(
            {"x": {"dtype": "F32", "shape": [9, 2], "data_offsets": [0, 8]}}, b"8" * 8
        ),
        "cannot be read as safetensors",
        "write the file again",
    ),
]


@pytest.mark.parametrize(("name", "write", "message", "remedy"), CASES)
def test_bad_files_are_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str, remedy: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        run([tmp_path / name], tmp_path / "data")
    assert caught.value.shard == name
    assert remedy in caught.value.remedy
    assert caught.value.remedy
    assert not (tmp_path / "data").exists()


HEADER_PARTS = [
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "'descr'",
    "'shape'",
    "'<f4'",
    "[",
    "'",
    "1",
    "\n ",
    "L",
]


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.sampled_from(HEADER_PARTS)).map("".join) | st.text(max_size=40),
    version=st.integers(0, 3),
    claimed=st.none() | st.integers(0, 2**16 - 1),
)
def test_no_npy_header_gets_past_the_check(
    tmp_path_factory: pytest.TempPathFactory, text: str, version: int, claimed: int | None
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.npy"
    npy_header(text, version, claimed)(path)
    with pytest.raises(DataError):
        run([path], path.parent / "data")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_file_and_row(tmp_path: Path, bad: float) -> None:
    array = np.ones((700, 3), dtype=np.float16)
    np.save(tmp_path / "good.npy", array)
    array[600, 1] = bad
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(DataError, match="activations, column 1 is") as caught:
        run([tmp_path / "good.npy", tmp_path / "bad.npy"], tmp_path / "data")
    assert (caught.value.shard, caught.value.row) == ("bad.npy", 600)
    assert not (tmp_path / "data" / "shards").exists()


def test_values_beyond_float16_name_row_and_remedy(tmp_path: Path) -> None:
    array = np.ones((9, 3), dtype=np.float32)
    array[7, 2] = 65_520.0
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match="65520, beyond float16's largest value 65504") as caught:
        run([tmp_path / "a.npy"], tmp_path / "data", spec(dtype="float16"))
    assert (caught.value.shard, caught.value.row) == ("a.npy", 7)
    assert "bfloat16" in caught.value.remedy


def test_files_must_agree(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ONE)
    np.save(tmp_path / "wide.npy", np.ones((3, 5), dtype=np.float32))
    np.save(tmp_path / "half.npy", ONE.astype(np.float16))
    save_tensors(tmp_path / "x.safetensors", {"x": torch.ones((3, 2))})
    for name, message in (
        ("wide.npy", r"has sources \{'activations': 5\}, but a.npy has \{'activations': 2\}"),
        ("x.safetensors", r"has sources \{'x': 2\}"),
        ("half.npy", "is of type float16, but a.npy of float32"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            run([tmp_path / "a.npy", tmp_path / name], tmp_path / "data")
        assert caught.value.shard == name


def test_there_must_be_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no files"):
        run([], tmp_path / "data")
    (tmp_path / "folder.npy").mkdir()
    for name in ("absent.npy", "folder.npy"):
        with pytest.raises(DataError, match="is not a file") as caught:
            run([tmp_path / name], tmp_path / "data")
        assert caught.value.shard == name


def test_sources_must_be_in_the_file_and_stand_once(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones((3, 2)), "y": torch.ones((3, 2))})
    with pytest.raises(DataError, match="there is no tensor z; it has x, y"):
        run([path], tmp_path / "data", spec(sources=[{"tensor": "z", "source": "s"}]))
    twice = [{"tensor": "x", "source": "s"}, {"tensor": "x", "source": "t"}]
    with pytest.raises(DataError, match="tensor x is asked for twice"):
        run([path], tmp_path / "data", spec(sources=twice))
    twice = [{"tensor": "x", "source": "s"}, {"tensor": "y", "source": "s"}]
    with pytest.raises(SpecError, match="a source is listed twice"):
        run([path], tmp_path / "data", spec(sources=twice))
    with pytest.raises(SpecError, match="a source cannot be called 'document'"):
        run([path], tmp_path / "data", spec(sources=[{"tensor": "x", "source": "document"}]))


def test_a_npy_file_has_one_source(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ONE)
    with pytest.raises(SpecError, match=r"2 sources are asked for, but a.npy holds one matrix"):
        run(
            [tmp_path / "a.npy"],
            tmp_path / "data",
            spec(sources=[{"source": "a"}, {"source": "b"}]),
        )


def test_columns_of_another_type_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    both = {"x": torch.ones((300, 2)), "tokens": torch.ones((300, 1), dtype=torch.int64)}
    save_tensors(path, both)
    with pytest.raises(DataError, match="tensor tokens is of type I64") as caught:
        run([path], tmp_path / "data")
    assert "ingest.sources" in caught.value.remedy
    run([path], tmp_path / "data", spec(sources=[{"tensor": "x", "source": "x"}], shard_rows=300))
    assert len(list((tmp_path / "data" / "shards").glob("0*.safetensors"))) == 1
