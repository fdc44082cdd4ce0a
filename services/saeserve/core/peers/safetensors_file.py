"""Foreign safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from saeserve.core.data.tensor_file import open_tensors
from saeserve.core.peers.tables import Header, TensorTable
from saeserve.errors import DataError, FormatError

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@contextmanager
def open_safetensors(path: Path, admit: Callable[[int], None]) -> Generator[TensorTable]:
    """Open a file, with `admit` as TensorTable has it; its tensors are mapped, and must be used
    inside the block.

    Raises FormatError for a file that is cut short, damaged or has a header above 4 MiB.
    """
    try:
        with open_tensors(path, path.name) as file:
            headers: dict[str, Header] = {}
            for name in file.keys():  # noqa: SIM118 - the file is not a mapping
                view = file.get_slice(name)
                code = view.get_dtype()
                headers[name] = Header(_DTYPES.get(code, code), tuple(view.get_shape()))
            yield TensorTable(path.name, headers, file.get_tensor, admit)
    except (DataError, SafetensorError) as error:
        raise FormatError(str(error), remedy="copy the file again") from error
