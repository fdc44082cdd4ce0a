"""Whether runs fit a machine's memory, and the largest ones that would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from saeserve.core.planning.footprint import STEP, Footprint, Memory, Part
from saeserve.core.planning.sizes import TrainingData, micro_batch_of
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec

INSUFFICIENT_MEMORY = "INSUFFICIENT_MEMORY"


class Refusal(Spec):
    """Why a job would be refused, and what would not be."""

    code: str
    message: str
    remedy: str = ""
    largest_batch_size: int | None = Field(default=None, ge=1)
    largest_micro_batch_size: int | None = Field(default=None, ge=1)
    largest_d_sae: int | None = Field(default=None, ge=1)
    """Set where no batch would fit."""


def refusal(
    members: Sequence[TrainSpec],
    data: TrainingData,
    available: int,
    where: str,
    memory: Memory = Memory.SHARED,
) -> Refusal | None:
    """None where the members fit `available` bytes of `where`, which names the machine."""
    footprint = footprint_of(members, data, memory)
    if footprint.peak <= available:
        return None

    def fits(**changes: object) -> bool:
        changed = [spec.model_copy(update=changes) for spec in members]
        return footprint_of(changed, data, memory).peak <= available

    if memory is Memory.HOST:
        return _of_host(members, fits, _needs(footprint, available, where))
    batch = _largest(lambda n: fits(batch_size=n, micro_batch_size=n), members[0].batch_size - 1)
    micro = _largest_divisor(lambda n: fits(micro_batch_size=n), members[0])
    widest = max(spec.d_sae for spec in members)
    d_sae = None if batch or micro else _largest(lambda n: fits(d_sae=n), widest - 1)
    return Refusal(
        code=INSUFFICIENT_MEMORY,
        message=_needs(footprint, available, where),
        remedy=_remedy(_named(micro_batch_size=micro, batch_size=batch, d_sae=d_sae)),
        largest_batch_size=batch,
        largest_micro_batch_size=micro,
        largest_d_sae=d_sae,
    )


def _of_host(members: Sequence[TrainSpec], fits: Callable[..., bool], message: str) -> Refusal:
    """Windows of rows are most of what an accelerator's host holds, and the dictionaries."""
    preprocess = members[0].preprocess

    def windows_fit(shards: int) -> bool:
        return fits(preprocess=preprocess.model_copy(update={"window_shards": shards}))

    window = _largest(windows_fit, preprocess.window_shards - 1)
    widest = max(spec.d_sae for spec in members)
    d_sae = None if window else _largest(lambda n: fits(d_sae=n), widest - 1)
    ways = [f"preprocess.window_shards = {window}"] if window else []
    return Refusal(
        code=INSUFFICIENT_MEMORY,
        message=message,
        remedy=_remedy([*ways, *_named(d_sae=d_sae)]),
        largest_d_sae=d_sae,
    )


def gib(size: float) -> str:
    """Bytes in GiB, for a sentence."""
    return f"{size / 2**30:.2f} GiB"


def _needs(footprint: Footprint, available: int, where: str) -> str:
    parts = ", ".join(
        f"{part} {gib(footprint.largest(part, STEP))}" for part in Part if footprint.largest(part)
    )
    peaks = footprint.peaks
    worst = max(peaks, key=lambda moment: peaks[moment])
    return (
        f"the job needs {gib(footprint.peak)} at its peak ({worst}) and {where} has "
        f"{gib(available)}; a step holds {parts}"
    )


def _named(**sizes: int | None) -> list[str]:
    return [f"{name} = {size}" for name, size in sizes.items() if size]


def _remedy(ways: Sequence[str]) -> str:
    if not ways:
        return "use a machine with more memory"
    return f"the largest that would fit: {' or '.join(ways)}; or use a machine with more memory"


def _largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest n of 1 .. limit that fits, where all below a fitting one fit; None: none."""
    if limit < 1 or not fits(1):
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _largest_divisor(fits: Callable[[int], bool], spec: TrainSpec) -> int | None:
    """The largest micro-batch below the present one that divides the batch and fits."""
    smaller = range(micro_batch_of(spec) - 1, 0, -1)
    divisors = (n for n in smaller if spec.batch_size % n == 0)
    return next((n for n in divisors if fits(n)), None)
