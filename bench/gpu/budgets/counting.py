"""Counts what torch's operations and our kernels do to tensors on the meta device.

Such tensors have shapes and no memory, so a step at full size takes a second on any machine. Every
operation of torch is counted once, for what it reads and writes; on a GPU it is one kernel or a
few. What it takes for itself while it runs is not seen. Kernels say themselves what they do.
"""

from __future__ import annotations

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import saeserve
from saeserve.core.gpu.launch import Launch, counted

PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1}
"""Dense products, and which argument is the left factor. One with a vector is none."""
SELECTIONS = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that take indices, among which a mask may be."""
GATHERS = {
    "_embedding_bag": (0, 1),
    "_embedding_bag_forward_only": (0, 1),
    "_embedding_bag_per_sample_weights_backward": (1, 2),
}
"""Operations that gather whole rows of a table: which arguments are the table and the places."""
SCATTERED = ("index", "index_select", "gather")
"""Operations that read as much as they give, in an order that the data give."""
ALLOCATIONS = (
    *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"),
    "lift_fresh",
)
CONSTANTS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})
"""Functions that copy numbers of the host's, in one way that operations do not show."""
OVERWRITES = ("copy_", "fill_", "zero_")
"""Operations in place that do not read what they overwrite."""
PACKAGE = Path(saeserve.__file__).parent


@dataclass
class Counts:
    """What happened."""

    operations: Counter[str] = field(default_factory=Counter[str])
    """Operations of torch that do something on the device, by name."""
    launches: list[Launch] = field(default_factory=list[Launch])
    """Launches of our kernels."""
    product_flops: Counter[str] = field(default_factory=Counter[str])
    """FLOPs of dense products, by the type of their factors."""
    moved: Counter[str] = field(default_factory=Counter[str])
    """Bytes that torch's operations read and write in order, by name."""
    fetched: Counter[str] = field(default_factory=Counter[str])
    """Bytes of rows that they gather."""
    live: int = 0
    """Bytes that are held now."""
    peak: int = 0
    widest: int = 0
    """Bytes an entry of the widest tensor with as many entries as the one asked about."""
    waits: Counter[str] = field(default_factory=Counter[str])
    """Where the host waits for the device, or copies to or from it: operation and our function."""

    @property
    def bytes(self) -> int:
        """Read and written in order."""
        return self.moved.total() + sum(each.work.bytes for each in self.launches)

    @property
    def gathered(self) -> int:
        """Bytes of rows that were gathered."""
        return self.fetched.total() + sum(each.work.gathered for each in self.launches)

    @property
    def starts(self) -> int:
        """Operations and launches."""
        return self.operations.total() + len(self.launches)


class Counting(TorchDispatchMode):
    """A context in which everything on the meta device is counted.

    `entries` is the number of entries of the tensors whose width is watched. Where the host asks
    for a number, or for the places of what fulfils a condition, `found` says how many there are.
    """

    def __init__(self, entries: int, found: Callable[[Tensor], int] = lambda _: 0) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.counts = Counts()
        self._entries, self._found = entries, found
        self._launches: list[Launch] = []
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Count from now on."""
        self._launches = self._stack.enter_context(counted())
        self._stack.enter_context(_Constants(self._wait))
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        super().__exit__(kind, error, trace)  # pyright: ignore[reportUnknownMemberType]
        self._stack.close()
        self.counts.launches.extend(self._launches)

    def restart(self) -> None:
        """Forget what was counted so far, except what is held."""
        live = self.counts.live
        self.counts = Counts(live=live, peak=live)
        self._launches.clear()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count these as held, until they are let go of."""
        for tensor in tensors:
            self._hold(tensor)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run the operation on shapes, and count it."""
        name = func.overloadpacket.__name__
        given = _tensors((args, kwargs))
        on_device = [each for each in given if each.is_meta]
        if (known := _WITHOUT_VALUES.get(name)) and on_device:
            self._wait(name)
            return known(args[0], self._found(args[0]))
        if name in SELECTIONS and on_device:
            args = self._with_places(name, args)
        if name == "_to_copy" and on_device and not _stays(kwargs or {}):
            self._wait(name)
            return torch.zeros_like(args[0], device="cpu")
        made = func(*args, **(kwargs or {}))
        results = [each for each in _tensors(made) if each.is_meta]
        if on_device or results:
            self._see(func, args, given, results)
        return made

    def _see(
        self, func: OpOverload, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]
    ) -> None:
        name = func.overloadpacket.__name__
        for each in results:
            self._hold(each)
            if each.numel() == self._entries:
                self.counts.widest = max(self.counts.widest, each.itemsize)
        if _crosses(name, given):
            self._wait(name)
        if func._overloadname == "out":  # pyright: ignore[reportPrivateUsage]
            # What is written was given, and is not read.
            given = [each for each in given if all(each is not made for made in results)]
        elif name in ALLOCATIONS or (not name.endswith("_") and _is_view(given, results)):
            return
        counts = self.counts
        counts.operations[name] += 1
        ordered, gathered = _traffic(name, args, given, results)
        counts.moved[name] += ordered
        counts.fetched[name] += gathered
        if name in PRODUCTS:
            left = args[PRODUCTS[name]]
            if min(results[0].shape) > 1:
                kind = str(left.dtype).removeprefix("torch.")
                counts.product_flops[kind] += 2 * results[0].numel() * left.shape[-1]

    def _with_places(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of an operation that takes indices: places for a mask, which the host
        would wait for."""
        indices: list[Tensor | None] = []
        for each in args[1]:
            if each is None or each.dtype != torch.bool:
                indices.append(each)
                continue
            self._wait(name)
            indices += _places(each, self._found(each)).unbind(1)
        return (args[0], indices, *args[2:])

    def _wait(self, name: str) -> None:
        self.counts.waits[f"{name} in {_caller()}"] += 1

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _memory(tensor)
        if key in self._held or not tensor.is_meta:
            return
        size = storage.nbytes()

        def let_go(_: object) -> None:
            self._held.pop(key, None)
            self.counts.live -= size

        self._held[key] = weakref.ref(storage, let_go)
        self.counts.live += size
        self.counts.peak = max(self.counts.peak, self.counts.live)


def _tensors(tree: object) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _traffic(
    name: str, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]
) -> tuple[int, int]:
    """Bytes in order, and bytes gathered."""
    if name in GATHERS:
        table, places = (args[at] for at in GATHERS[name])
        rest = [each for each in given if each is not table]
        size = places.numel() * table.shape[1] * table.itemsize
        return _bytes((*rest, *results)), size
    if name in SCATTERED:
        rest = [each for each in given if each is not args[0]]
        return _bytes((*rest, *results)), _bytes(results)
    if name in OVERWRITES:
        return _bytes((*given[1:], *results)), 0
    return _bytes((*given, *results)), 0


def _bytes(tensors: Iterable[Tensor]) -> int:
    """What is moved of these: an entry that a view repeats once."""
    return sum(
        prod(size for size, step in zip(each.shape, each.stride(), strict=True) if step)
        * each.itemsize
        for each in tensors
        if each.is_meta
    )


def _is_view(given: list[Tensor], results: list[Tensor]) -> bool:
    """Whether all results lie in memory that was there before."""
    known = set(map(_memory, given))
    return bool(results) and all(_memory(each) in known for each in results)


def _memory(tensor: Tensor) -> int:
    """A number of the memory that a tensor lies in; it has no address on the meta device."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _crosses(name: str, given: list[Tensor]) -> bool:
    """Whether numbers go from the host to the device or back. A single number of the host's may
    take part in an operation on the device, as an argument of its kernel."""
    off = [each for each in given if not each.is_meta]
    if name in ("_to_copy", "copy_"):
        return bool(off)
    return any(each.ndim for each in off)


def _stays(options: dict[str, Any]) -> bool:
    """Whether a copy with these options stays on the device."""
    device = options.get("device")
    return device is None or torch.device(device).type == "meta"


class _Constants(TorchFunctionMode):
    """Calls `wait` where a tensor on the meta device is made of numbers of the host's."""

    def __init__(self, wait: Callable[[str], None]) -> None:
        super().__init__()
        self._said = wait

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run the function, and see whether it is one of them."""
        made = func(*args, **(kwargs or {}))
        if func in CONSTANTS and isinstance(made, Tensor) and made.is_meta:
            data = args[-1] if args else None
            if not (isinstance(data, Tensor) and data.is_meta):
                self._said(func.__name__)
        return made


def _caller() -> str:
    """The function of ours that was called last."""
    return next(_own_frames(), "torch")


def _own_frames() -> Iterator[str]:
    frame = inspect.currentframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            yield f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back


def _places(condition: Tensor, count: int) -> Tensor:
    """Places of so many entries that are not zero."""
    return torch.empty(count, condition.ndim, dtype=torch.int64, device="meta")


def _number(value: Tensor, count: int) -> float:
    """A count, or 1 for anything else."""
    return 1.0 if value.is_floating_point() else count


_WITHOUT_VALUES: dict[str, Callable[[Tensor, int], object]] = {
    "nonzero": _places,
    "_local_scalar_dense": _number,
}
"""Operations that need numbers, so that the host waits for them."""
