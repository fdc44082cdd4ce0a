"""What is looked at before an upload begins: files that no job could use are not sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from saeserve.client.array_files import StoredArray, bad_file, check_type, stored_arrays
from saeserve.client.refusals import bad_shape

_CHOOSE = "name those that the ingest will take: upload(…, tensors=[…])"
REFERENCES = "reference/"
"""Where uploads for an import have the rows to compare on."""


def check_matrices(paths: Sequence[Path], tensors: Sequence[str] = ()) -> None:
    """Raise InvalidArgumentError unless the files hold matrices that make one data set.

    `tensors` are those of .safetensors files that will be used; left out, all are.
    """
    widths: dict[str, tuple[int, Path]] = {}
    for path in paths:
        arrays = [each for each in stored_arrays(path) if not tensors or each.tensor in tensors]
        if not arrays:
            raise bad_file(path, f"has no tensor {' or '.join(tensors)}", "name one that it has")
        for array in arrays:
            check_matrix(array)
            known, where = widths.setdefault(array.tensor, (array.shape[1], path))
            if known != array.shape[1]:
                what = f"has rows of width {array.shape[1]}, {where.name} of {known}"
                raise bad_file(path, what, "upload them as data sets of their own")
        if len({each.shape[0] for each in arrays}) > 1:
            listed = ", ".join(f"{each.tensor}: {each.shape[0]}" for each in arrays)
            raise bad_file(path, f"its tensors differ in rows ({listed})", _CHOOSE)


def check_matrix(array: StoredArray) -> None:
    """Raise InvalidArgumentError unless it is a matrix [rows, d] of floats that holds something."""
    check_type(array)
    if len(array.shape) != 2 or min(array.shape) < 1:
        raise bad_shape(
            f"{array.name} has shape {list(array.shape)}; a matrix [rows, d] is needed",
            field="file",
            remedy="reshape it to [rows, d]" if not array.tensor else f"reshape it, or {_CHOOSE}",
        )


def check_references(items: Mapping[str, Path]) -> None:
    """Raise InvalidArgumentError unless the files under reference/ are matrices of as many rows."""
    paths = [path for name, path in items.items() if name.startswith(REFERENCES)]
    found = [array for path in paths for array in stored_arrays(path, ".npy")]
    for array in found:
        check_matrix(array)
    if len({array.shape[0] for array in found}) > 1:
        listed = ", ".join(f"{array.name}: {array.shape[0]}" for array in found)
        raise bad_shape(
            f"the references differ in rows ({listed})",
            field="reference",
            remedy="give what the library made of exactly the rows of activations",
        )
