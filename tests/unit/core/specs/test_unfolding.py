"""Sizes are read from what files declare, and never by unfolding them."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from saeserve.core.specs.unfolding import check_directory, declared_values
from saeserve.errors import FormatError


def test_a_compressed_archive_counts_by_what_it_unfolds_to(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez_compressed(path, W=np.zeros((1000, 1000), np.float32))
    assert path.stat().st_size < 10_000
    assert declared_values(path) == pytest.approx(1_000_000, rel=1e-3)


def test_a_declared_size_is_believed_without_reading_the_member(tmp_path: Path) -> None:
    """2 GiB of zeros, of which 4 KiB stand in the file."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W.npy", b"\0" * 4096)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<L", 2**31)
    path.write_bytes(data)
    assert declared_values(path) == 2**29


def test_a_safetensors_header_counts_whatever_the_type(tmp_path: Path) -> None:
    path = tmp_path / "sae.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "W": {"dtype": "BF16", "shape": [30, 40], "data_offsets": [0, 2400]},
        "b": {"dtype": "F32", "shape": [5], "data_offsets": [2400, 2420]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 2420)
    assert declared_values(path) == 1205


@pytest.mark.parametrize("head", [b"", b"xxxx", struct.pack("<Q", 2**62) + b"{}", b"x" * 100])
def test_a_header_that_cannot_be_read_counts_by_the_size(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "sae.safetensors"
    path.write_bytes(head)
    assert declared_values(path) == len(head) // 4


def test_other_files_declare_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}" * 100)
    assert declared_values(tmp_path / "config.json") == 0


def test_what_is_no_archive_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "params.npz").write_bytes(b"no archive")
    with pytest.raises(FormatError, match=r"params\.npz is not an archive"):
        declared_values(tmp_path / "params.npz")


def test_a_list_of_members_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(9000):
            archive.writestr(f"{number:0100d}.npy", b"")
    with pytest.raises(FormatError, match=r"many\.npz lists members in 1\d{6} bytes"):
        check_directory(path)
