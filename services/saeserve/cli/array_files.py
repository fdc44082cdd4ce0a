"""Arrays in local files: what is read, and what is refused with the file and the cause."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve.cli.refusals import reading, refused
from saeserve.client import SparseFeatures
from saeserve.client.array_files import read_rows
from saeserve.client.arrays import Rows
from saeserve.client.errors import InvalidArgumentError

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_BFLOAT16 = np.dtype("V2")
"""What numpy takes bfloat16 for, as the package ml_dtypes writes it."""
_CSR = ("shape", "offsets", "indices", "values", "model")

Array = npt.NDArray[Any]


def read_array(path: Path) -> Rows:
    """The array of a .npy file, or of a .safetensors file with one tensor, mapped.

    Raises InvalidArgumentError naming file and cause.
    """
    if path.suffix == ".safetensors":
        return read_rows(path)
    with reading(path, "a .npy file of activations"):
        with path.open("rb") as file:
            magic = file.read(len(_NPY))
        if magic != _NPY:
            raise _not_npy(path, magic)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _broken(path, error) from error
    if array.dtype == _BFLOAT16:
        return read_rows(path)
    if array.dtype.kind != "f":
        raise refused(
            f"{path} holds {array.dtype} values, no floating-point ones",
            field="file",
            remedy="save it as float32: numpy.save(path, array.astype('float32'))",
        )
    return Rows(array)


def read_features(path: Path) -> SparseFeatures:
    """What `saeserve encode --out` wrote. Raises InvalidArgumentError naming file and cause."""
    with reading(path, "a file that saeserve encode --out wrote"):
        try:
            with np.load(path, allow_pickle=False) as file:
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise _not_features(path, _CSR)
                missing = [name for name in _CSR if name not in file]
                if missing:
                    raise _not_features(path, missing)
                return _features({name: file[name] for name in file.files})
        except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise _not_features(path, _CSR) from error


def feature_arrays(features: SparseFeatures) -> dict[str, Array]:
    """What a file of features holds, by name."""
    arrays: dict[str, Array] = {
        "shape": np.array(features.shape),
        "offsets": features.offsets,
        "indices": features.indices,
        "values": features.values,
        "model": np.array(features.model),
    }
    if len(features.beyond_norm_bound):
        arrays["beyond_norm_bound"] = features.beyond_norm_bound
    if features.statistics is not None:
        arrays["statistics"] = features.statistics
    return arrays


def _features(arrays: dict[str, Array]) -> SparseFeatures:
    return SparseFeatures(
        tuple(int(size) for size in arrays["shape"]),
        arrays["offsets"],
        arrays["indices"],
        arrays["values"],
        str(arrays["model"]),
        statistics=arrays.get("statistics"),
        beyond_norm_bound=arrays.get("beyond_norm_bound", np.zeros(0, np.int64)),
    )


def _not_npy(path: Path, magic: bytes) -> InvalidArgumentError:
    if not magic:
        return refused(f"{path} is empty", field="file", remedy="write the file anew")
    if magic.startswith(_ZIP):
        return refused(
            f"{path} is an archive (.npz, or a pickle of torch), not one .npy array",
            field="file",
            remedy="save the one array with numpy.save",
        )
    return refused(
        f"{path} is not a .npy file: its first bytes are {magic!r}",
        field="file",
        remedy="save the array with numpy.save",
    )


def _broken(path: Path, error: Exception) -> InvalidArgumentError:
    """numpy's own texts suggest allow_pickle, which is no remedy here."""
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return refused(
            f"{path} holds Python objects, which are never loaded",
            field="file",
            remedy="save an array of numbers with numpy.save",
        )
    return refused(
        f"{path} is damaged or cut short ({error})".replace("\n", " "),
        field="file",
        remedy="write or copy the file anew",
    )


def _not_features(path: Path, missing: Sequence[str]) -> InvalidArgumentError:
    return refused(
        f"{path} does not hold the features of an encode: {', '.join(missing)} missing",
        field="file",
        remedy="make the file with saeserve encode MODEL rows.npy --out FILE",
    )
