"""How much disk a harvest takes, and whether it is there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from saeserve.core.planning.sizes import VALUE_BYTES
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.errors import NoSpaceError

ROW_INTEGERS = 4
"""int32 a row: document, sequence, position, token id."""


def estimate_bytes(spec: HarvestSpec, d_by_source: Mapping[str, int], rows: int) -> int:
    """Bytes that `rows` rows take on disk: values, one float32 norm a source, four int32."""
    values = sum(d_by_source.values()) * VALUE_BYTES[spec.dtype]
    return rows * (values + 4 * len(d_by_source) + 4 * ROW_INTEGERS)


def check_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError, with both numbers, where `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpaceError(
            f"the harvest needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free",
            remedy="free the space, lower max_tokens, or harvest fewer sites",
        )
