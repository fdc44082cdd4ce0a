"""Starting kernels, and counting what they do without a GPU.

Every kernel is started by `launch`, which is given the kernel's work as a function of the shapes.
Tensors on the meta device have shapes and no memory: there nothing is started, and the work is
recorded in the ledger that `counted` opens. A whole step of training can be counted so, in a
second and on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Grid = tuple[int, ...]


class Kernel(Protocol):
    """A kernel of Triton's, as it is started."""

    @property
    def __name__(self) -> str: ...

    def __getitem__(self, grid: Grid, /) -> Callable[..., object]:
        """What starts it on this grid."""
        ...


@dataclass(frozen=True)
class Work:
    """What one launch does. What depends on the data is stated as its expected number."""

    bytes: int = 0
    """Memory that is read and written in its order."""
    flops: int = 0
    """Operations on floating-point numbers; comparisons and integers are left out."""
    gathered: int = 0
    """Bytes of rows that are read in an order that the data give, in addition to `bytes`."""


class Launch(NamedTuple):
    """A launch that was counted."""

    name: str
    """The kernel's."""
    work: Work
    grid: Grid


_ledger: ContextVar[list[Launch] | None] = ContextVar("ledger", default=None)


@contextmanager
def counted() -> Generator[list[Launch]]:
    """Count kernels on tensors of the meta device; the list grows with each launch."""
    launches: list[Launch] = []
    token = _ledger.set(launches)
    try:
        yield launches
    finally:
        _ledger.reset(token)


def counting() -> bool:
    """Whether a ledger is open."""
    return _ledger.get() is not None


def launch(
    kernel: Kernel, grid: Grid, arguments: Sequence[Any], work: Work, **options: int | bool
) -> None:
    """Start a Triton kernel, or record its work where its tensors are on the meta device.

    The first argument is a tensor. `options` are the kernel's constants and Triton's own settings,
    as `num_warps`. Raises RuntimeError for tensors on the meta device outside `counted`.
    """
    if not arguments[0].is_meta:
        kernel[grid](*arguments, **options)
        return
    launches = _ledger.get()
    if launches is None:
        raise RuntimeError(
            f"{kernel.__name__} was given tensors on the meta device, where kernels are only "
            "counted: call it inside of saeserve.core.gpu.launch.counted()"
        )
    launches.append(Launch(kernel.__name__, work, grid))
