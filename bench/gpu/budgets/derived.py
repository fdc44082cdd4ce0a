"""Bytes and FLOPs that a step needs, part by part: what the GPU's step was planned on.

Each part's amount is a function of the shapes. `MS` has the milliseconds that were planned for it
on an H100, and RATES what the plan assumed the card to do: a test holds amounts over rates to those
times, within their two digits. No time here was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.gpu.budgets.counting import Counts
from bench.gpu.lab import Shape

from saeserve.core.gpu.launch import Work

TERA = 1e12
RATES = {"product": 790 * TERA, "copy": 3.0 * TERA, "fused": 2.6 * TERA, "gather": 4.0 * TERA}
"""FLOPs a second of a 16-bit product at best; bytes a second copied, in fused passes, and gathered
from a table that lies in the L2 cache."""
WINDOW_ROWS = 8
"""Rows of W_enc that a row of the batch needs in float32: entries that rounding leaves open."""


@dataclass(frozen=True)
class Part:
    """A part of the step."""

    work: Callable[[Shape], Work]
    """What it does."""
    rate: str
    """What its bytes in order are moved at, or its FLOPs computed."""
    kernels: tuple[str, ...] = ()
    """Kernels of ours that do it."""
    operations: tuple[str, ...] = ()
    """Operations of torch that do it."""
    ms: tuple[tuple[str, float], ...] = ()
    """Milliseconds that were planned, by shape."""


def _numbers(shape: Shape) -> int:
    """Numbers of both dictionaries."""
    return 2 * shape.m * shape.d


def _row(shape: Shape) -> int:
    """Numbers of all rows of the batch."""
    return shape.batch * shape.d


def _prepare(shape: Shape) -> Work:
    """Float32 read; float32 and float16 written."""
    return Work(bytes=10 * _row(shape))


def _product(shape: Shape) -> Work:
    return Work(flops=2 * shape.batch * shape.d * shape.m)


def _select(shape: Shape) -> Work:
    """Pre-activations of 2 bytes read once, maxima of 32 written and read twice."""
    return Work(bytes=shape.batch * shape.m * 2 + 12 * shape.batch * shape.m // 32)


def _window(shape: Shape) -> Work:
    return Work(gathered=4 * WINDOW_ROWS * _row(shape))


def _decode(shape: Shape) -> Work:
    """Rows of W_dec in 16 bits; targets read, errors written in float32 and read again."""
    return Work(bytes=12 * _row(shape), gathered=2 * shape.k * _row(shape))


def _one_pass(shape: Shape) -> Work:
    """Errors and inputs of 16 bits gathered; both gradients written."""
    return Work(bytes=4 * _numbers(shape), gathered=4 * shape.k * _row(shape))


def _tiled(shape: Shape) -> Work:
    """With the values' gradients, where errors and inputs do not fit the cache together."""
    return Work(bytes=4 * _numbers(shape), gathered=6 * shape.k * _row(shape))


def _update(shape: Shape) -> Work:
    """g, w, m, v read; w, m, v and a copy of 16 bits written."""
    return Work(bytes=30 * _numbers(shape))


def _passes(shape: Shape) -> Work:
    """Five numbers of 2 bytes for each pre-activation, forward and back."""
    return Work(bytes=10 * shape.batch * shape.m)


def _in_cache(shape: Shape) -> bool:
    """Whether inputs and errors in 16 bits fit a cache of 50 MB with room for the rest."""
    return 4 * _row(shape) <= 32e6


TOPK = {
    "prepare": Part(
        _prepare, "copy", ("round_kernel",), ms=(("S1", 0.02), ("S2", 0.10), ("S3", 0.06))
    ),
    "product": Part(
        _product, "product", operations=("addmm",), ms=(("S1", 0.39), ("S2", 5.57), ("S3", 0.78))
    ),
    "select": Part(_select, "fused", ("groups_kernel",), ms=(("S1", 0.17), ("S2", 0.50))),
    "window": Part(_window, "copy", ("short_kernel",), ms=(("S1", 0.06), ("S3", 0.15))),
    "decode": Part(_decode, "fused", ("reconstruct_kernel",), ms=(("S1", 0.13), ("S2", 1.1))),
    "gradients": Part(
        lambda shape: _one_pass(shape) if _in_cache(shape) else _tiled(shape),
        "fused",
        ("sum_kernel", "join_kernel"),
        ms=(("S1", 0.26), ("S2", 3.8)),
    ),
    "update": Part(
        _update,
        "fused",
        ("measure_kernel", "norms_kernel", "clip_kernel", "move_kernel"),
        ms=(("S1", 0.44), ("S2", 6.2), ("S3", 0.87)),
    ),
}
"""TopK's; sorting and what is left of torch are small and have no row."""


JUMPRELU = {
    "product": Part(
        lambda shape: Work(flops=5 * _product(shape).flops),
        "product",
        operations=("mm",),
        ms=(("S3", 3.9),),
    ),
    "passes": Part(
        _passes,
        "fused",
        ("jumprelu_fire_kernel", "jumprelu_settle_kernel", "jumprelu_back_kernel"),
        ms=(("S3", 0.52),),
    ),
    "window": Part(_window, "copy", ("jumprelu_settle_kernel",), ms=(("S3", 0.15),)),
    "update": TOPK["update"],
}
"""JumpReLU's by dense products."""


def planned_ms(part: Part, shape: Shape) -> float:
    """Milliseconds at the rates."""
    return _ms(part.work(shape), part.rate)


def counted_ms(parts: dict[str, Part], counts: Counts) -> float:
    """Milliseconds of all parts together at the rates, for what the counted step does; a kernel
    that does some of two parts is counted once, at the rate of the part that names it first."""
    rates = {kernel: part.rate for part in reversed(parts.values()) for kernel in part.kernels}
    kernels = (each for each in counts.launches if each.name in rates)
    products = _ms(Work(flops=counts.product_flops.total()), "product")
    return products + sum(_ms(each.work, rates[each.name]) for each in kernels)


def _ms(work: Work, rate: str) -> float:
    ordered = (work.flops if rate == "product" else work.bytes) / RATES[rate]
    return 1e3 * (ordered + work.gathered / RATES["gather"])


def counted_of(part: Part, counts: Counts) -> Work:
    """What the counted step does in this part."""
    launches = [each.work for each in counts.launches if each.name in part.kernels]
    if part.rate == "product":
        return Work(flops=counts.product_flops.total())
    return Work(
        bytes=sum(work.bytes for work in launches),
        gathered=sum(work.gathered for work in launches),
    )


def ratio(part: Part, shape: Shape, counts: Counts) -> float:
    """Counted over derived: FLOPs of the product, bytes of everything else, of the kinds that
    were derived."""
    needed, done = part.work(shape), counted_of(part, counts)
    if part.rate == "product":
        return done.flops / needed.flops
    ordered = done.bytes if needed.bytes else 0
    gathered = done.gathered if needed.gathered else 0
    return (ordered + gathered) / (needed.bytes + needed.gathered)
