"""Features in local files: what is read, and what is refused with the file and the cause."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve.cli.refusals import reading, refused
from saeserve.client import SparseFeatures
from saeserve.client.errors import InvalidArgumentError

_CSR = ("shape", "offsets", "indices", "values", "model")

Array = npt.NDArray[Any]


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


def _not_features(path: Path, missing: Sequence[str]) -> InvalidArgumentError:
    return refused(
        f"{path} does not hold the features of an encode: {', '.join(missing)} missing",
        field="file",
        remedy="make the file with saeserve encode MODEL rows.npy --out FILE",
    )
