"""Between rows of numpy and the bytes that travel to a device and back.

To the device go the rows of all requests of a batch, each in the type in which it was sent; they
are widened there. Back comes one buffer of int32: features as `device_model` lays them out, or a
flag and activations by their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeserve.core.export.device_model import Layout, PackedFeatures
from saeserve.core.ops.sparse import RowStatistics, SparseRows
from saeserve.inference.refusals import outside_float32
from saeserve.inference.rows import (
    DenseRows,
    FeatureRows,
    IntArray,
    Rows,
    index_type,
    join,
)

ALIGNMENT = 16
"""Bytes of which each array's first one is a multiple."""
_TYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype("<f4"): torch.float32,
    np.dtype("<f2"): torch.float16,
    np.dtype("<u2"): torch.bfloat16,
    np.dtype("<i4"): torch.int32,
    np.dtype("<i8"): torch.int64,
}
"""Types on the device; uint16 holds the bits of bfloat16."""


Arrays = Sequence[npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Sending:
    """Groups of arrays of one type and width, and at which byte of the memory each begins."""

    groups: tuple[Arrays, ...]
    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, groups: Sequence[Arrays]) -> Sending:
        """Places for groups, one behind the other."""
        starts, size = list[int](), 0
        for group in groups:
            starts.append(size)
            size += -(-_nbytes(group) // ALIGNMENT) * ALIGNMENT
        return cls(tuple(groups), tuple(starts), size)

    def fill(self, memory: Tensor) -> None:
        """Copy the arrays to their places in uint8 memory of the host."""
        target: npt.NDArray[np.uint8] = memory.numpy()
        for group, start in zip(self.groups, self.starts, strict=True):
            place = target[start : start + _nbytes(group)].view(group[0].dtype)
            np.concatenate(group, out=place.reshape(_shape(group)))

    def read(self, memory: Tensor) -> list[Tensor]:
        """Each group as one tensor, which is a view of the memory."""
        return [
            memory[start : start + _nbytes(group)].view(_TYPES[group[0].dtype]).view(_shape(group))
            for group, start in zip(self.groups, self.starts, strict=True)
        ]


def sending(parts: Sequence[Rows]) -> Sending:
    """What a batch sends: activations as they are, or the arrays of features."""
    dense = [part.sent for part in parts if isinstance(part, DenseRows)]
    if dense:
        alike = len({array.dtype for array in dense}) == 1
        return Sending.of([dense] if alike else [[array] for array in dense])
    joined = join(parts)
    if not isinstance(joined, FeatureRows):
        raise TypeError("rows of two kinds are in one batch; this is a bug")
    arrays: list[npt.NDArray[np.generic]] = [joined.offsets, joined.indices.astype(np.int32)]
    arrays += [joined.values] if joined.statistics is None else [joined.values, joined.statistics]
    return Sending.of([[array] for array in arrays])


def widened(arrays: Sequence[Tensor]) -> Tensor:
    """Activations of all parts, float32 [rows, d], in memory of their own."""
    if len(arrays) == 1:
        return arrays[0].to(torch.float32, copy=True)
    x_BD = torch.empty(sum(map(len, arrays)), arrays[0].shape[1], device=arrays[0].device)
    start = 0
    for array in arrays:
        x_BD[start : start + len(array)].copy_(array)
        start += len(array)
    return x_BD


def features(arrays: Sequence[Tensor], d_sae: int) -> SparseRows:
    """The features that `sending` has sent."""
    offsets, latents, values, *statistics = arrays
    known = RowStatistics(statistics[0][:, 0], statistics[0][:, 1]) if statistics else None
    return SparseRows(offsets, latents.long(), values, d_sae, known)


def packed(found: SparseRows) -> PackedFeatures:
    """Features of a model without an encoder of the device's, in the same form as those of one."""
    known, finite = found.statistics, torch.isfinite(found.values).all()
    parts = [found.offsets.diff().to(torch.int32)]
    if known is not None:
        statistics_2B = torch.stack([known.mean, known.deviation])
        finite &= torch.isfinite(statistics_2B).all()
        parts.append(_bits(statistics_2B))
    parts = [_flag(finite), *parts, found.latents.to(torch.int32), _bits(found.values)]
    layout = Layout(found.rows, found.values.numel(), None, known is not None)
    return PackedFeatures(torch.cat(parts), (layout,))


def packed_dense(y_BO: Tensor) -> Tensor:
    """A flag, and the bits of activations."""
    return torch.cat([_flag(torch.isfinite(y_BO).all()), _bits(y_BO)])


def dense_of(buffer: IntArray, shape: tuple[int, int]) -> DenseRows:
    """Activations of `packed_dense`. Raises InvalidInput where they are not finite."""
    _check_finite(buffer)
    return DenseRows(buffer[1:].view(np.float32).reshape(shape).copy())


def needed_room(buffer: IntArray, layouts: Sequence[Layout]) -> tuple[float, bool]:
    """Entries a row of the fullest block, and whether the memory of each block was enough."""
    needed, enough, start = 0.0, True, 0
    for layout in layouts:
        entries = int(buffer[start + 1 : start + 1 + layout.rows].sum(dtype=np.int64))
        needed = max(needed, entries / max(1, layout.rows))
        enough = enough and entries <= layout.room
        start += layout.size
    return needed, enough


def features_of(buffer: IntArray, layouts: Sequence[Layout], d_sae: int) -> FeatureRows:
    """Features of all blocks, in memory of their own. Raises InvalidInput where some are not
    finite."""
    parts, start = list[FeatureRows](), 0
    for layout in layouts:
        parts.append(_block(buffer[start : start + layout.size], layout, d_sae))
        start += layout.size
    joined = join(parts) if len(parts) > 1 else parts[0]
    if not isinstance(joined, FeatureRows):
        raise TypeError("features became activations; this is a bug")
    return joined


def _block(buffer: IntArray, layout: Layout, d_sae: int) -> FeatureRows:
    _check_finite(buffer)
    counts_B = buffer[1 : 1 + layout.rows]
    offsets = np.zeros(layout.rows + 1, np.int64)
    np.cumsum(counts_B, out=offsets[1:])
    latents, values = buffer[layout.size - 2 * layout.room :].reshape(2, -1)
    if layout.k is None:
        latents, values = latents[: offsets[-1]], values[: offsets[-1]]
    elif offsets[-1] < layout.room:
        # The sign of zero is a bit too.
        kept = (values << 1) != 0
        latents, values = latents[kept], values[kept]
    statistics = None
    if layout.statistics:
        bits = buffer[1 + layout.rows : 1 + 3 * layout.rows]
        statistics = np.ascontiguousarray(bits.view(np.float32).reshape(2, -1).T)
    indices = latents.astype(index_type(d_sae))
    return FeatureRows(offsets, indices, values.view(np.float32).copy(), d_sae, statistics)


def _check_finite(buffer: IntArray) -> None:
    if not buffer[0]:
        raise outside_float32()


def _nbytes(group: Arrays) -> int:
    return sum(array.nbytes for array in group)


def _shape(group: Arrays) -> tuple[int, ...]:
    return (sum(map(len, group)), *group[0].shape[1:])


def _flag(finite: Tensor) -> Tensor:
    return finite.to(torch.int32).view(1)


def _bits(values: Tensor) -> Tensor:
    return values.reshape(-1).view(torch.int32)
