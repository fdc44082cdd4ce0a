"""Whether a train job fits this machine: asked before the first tensor is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.formats.train_sources import Layout
from saeserve.core.planning.footprint import Memory, Part
from saeserve.core.planning.refusal import INSUFFICIENT_MEMORY, gib, refusal
from saeserve.core.planning.sizes import training_data
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.training import TrainSpec
from saeserve.core.specs.unfolding import IMPORT_BYTES_A_VALUE
from saeserve.errors import FailedPrecondition, Unavailable
from saeserve.platform.memory import free_bytes, limit_bytes

_IMPORT_REMEDY = "import it on a larger machine, or correct the file"
_COLLECT_REMEDY = "collect on a larger machine, or a smaller model"


def check_import_memory(values: int) -> None:
    """Raise as `check_memory` does for a foreign model of so many numbers, before they are read."""
    _check_fits(values * IMPORT_BYTES_A_VALUE, free_bytes(), limit_bytes(), "this machine")


def check_collect_memory(wanted: int) -> None:
    """Raise as `check_memory` does for a pass that needs so many bytes."""
    _check_fits(wanted, free_bytes(), limit_bytes(), "this machine", _COLLECT_REMEDY)


def check_memory(
    spec: TrainSpec, layout: Layout, dataset: ShardedDataset, device: torch.device
) -> None:
    """Raise FailedPrecondition for a run that the machine could never hold, and Unavailable, which
    is tried again, for one that what else runs here leaves no room for."""
    data, members = training_data(layout, dataset.manifest), layout.members(spec)
    for room in _rooms(device):
        refused = refusal(members, data, room.limit, room.where, room.memory)
        if refused is not None:
            raise FailedPrecondition(refused.message, code=refused.code, remedy=refused.remedy)
        footprint = footprint_of(members, data, room.memory)
        # This process is there already, and so is its context on a device.
        _check_free(footprint.peak - footprint.largest(Part.BASE), room)


@dataclass(frozen=True)
class _Room:
    """One of a machine's memories, and what of it can be had."""

    memory: Memory
    where: str
    free: int
    limit: int
    lower: str
    """Fields that make a job smaller there."""


_BATCHES = "batch_size or micro_batch_size"


def _rooms(device: torch.device) -> Iterator[_Room]:
    """The memories that a job on the device needs."""
    free, limit = free_bytes(), limit_bytes()
    if device.type != "cuda":
        yield _Room(Memory.SHARED, "this machine", free, limit, _BATCHES)
        return
    yield _Room(Memory.DEVICE, "the device", *torch.cuda.mem_get_info(device), _BATCHES)
    yield _Room(Memory.HOST, "the host's memory", free, limit, "preprocess.window_shards")


def _check_free(wanted: int, room: _Room) -> None:
    if wanted > room.free:
        raise Unavailable(
            f"the job needs {gib(wanted)} more and {room.where} has {gib(room.free)} free of "
            f"{gib(room.limit)}",
            code=INSUFFICIENT_MEMORY,
            remedy=f"wait for what else runs there to end, or lower {room.lower}",
        )


def _check_fits(
    wanted: int, free: int, limit: int, where: str, remedy: str = _IMPORT_REMEDY
) -> None:
    if wanted > limit:
        raise FailedPrecondition(
            f"the job needs {gib(wanted)} and {where} has {gib(limit)}",
            code=INSUFFICIENT_MEMORY,
            remedy=remedy,
        )
    if wanted > free:
        raise Unavailable(
            f"the job needs {gib(wanted)} more and {where} has {gib(free)} free of {gib(limit)}",
            code=INSUFFICIENT_MEMORY,
            remedy="wait for what else runs there to end",
        )
