"""Whether a train job fits this machine: asked before the first tensor is made."""

from __future__ import annotations

import torch

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.formats.train_sources import Layout
from saeserve.core.planning.footprint import Part
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
    data, accelerator = training_data(layout, dataset.manifest), device.type == "cuda"
    free, limit = torch.cuda.mem_get_info(device) if accelerator else (free_bytes(), limit_bytes())
    where = "the device" if accelerator else "this machine"
    members = layout.members(spec)
    refused = refusal(members, data, limit, where, accelerator=accelerator)
    if refused is not None:
        raise FailedPrecondition(refused.message, code=refused.code, remedy=refused.remedy)
    footprint = footprint_of(members, data, accelerator=accelerator)
    # This process is there already, and so is its context on a device.
    wanted = footprint.peak - footprint.largest(Part.BASE)
    if wanted > free:
        raise Unavailable(
            f"the job needs {gib(wanted)} more and {where} has {gib(free)} free of {gib(limit)}",
            code=INSUFFICIENT_MEMORY,
            remedy="wait for what else runs there to end, or lower batch_size or micro_batch_size",
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
