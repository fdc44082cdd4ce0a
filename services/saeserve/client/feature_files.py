"""Files of features: what an encode wrote, known by their contents, not by their names."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from saeserve.client.array_files import SUFFIXES, bad_file, check_file
from saeserve.client.features import SparseFeatures
from saeserve.client.local_files import local_errors

_ARCHIVE = b"PK\x03\x04"
_REMEDY = (
    "name the .npz that saeserve encode --out or SparseFeatures.save wrote, the JSON that "
    "saeserve encode --json printed, or dense features as .npy or .safetensors"
)
# What a file of another kind raises depends on where its reader gives up.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, EOFError, zipfile.BadZipFile)


def stored_features(path: Path) -> SparseFeatures | None:
    """The features that an encode wrote to a file; None for a file of one dense array.

    Raises InvalidArgumentError for a file of neither kind, PreconditionError for the disk's errors.
    """
    check_file(path, "features that saeserve encode --out wrote, or a .npy or .safetensors file")
    with local_errors(f"{path} cannot be read"):
        with path.open("rb") as file:
            begin = file.read(len(_ARCHIVE))
        try:
            if begin == _ARCHIVE:
                return SparseFeatures.load(path)
            if path.suffix in SUFFIXES:
                return None
            if begin.lstrip()[:1] == b"{":
                return _of_json(json.loads(path.read_bytes()))
        except _MALFORMED as error:
            raise bad_file(path, f"holds no features: {error}", _REMEDY) from error
    what = "it is empty" if not begin else "it is neither an archive nor JSON nor an array"
    raise bad_file(path, f"holds no features: {what}", _REMEDY)


def _of_json(value: object) -> SparseFeatures:
    """What `saeserve encode --json` prints."""
    fields = cast("Mapping[str, Any]", value)
    if missing := {"shape", "offsets", "indices", "values"} - fields.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    statistics = fields.get("statistics")
    return SparseFeatures(
        tuple(int(axis) for axis in fields["shape"]),
        np.asarray(fields["offsets"], np.int64),
        np.asarray(fields["indices"], np.int64),
        np.asarray(fields["values"], np.float32),
        str(fields.get("model", "")),
        statistics=None if statistics is None else np.asarray(statistics, np.float32),
        beyond_norm_bound=np.asarray(fields.get("beyond_norm_bound", ()), np.int64),
    )
