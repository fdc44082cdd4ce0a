"""The n largest positive entries of a whole micro-batch, exact, ties decided (BatchTopK).

`Tensor.topk` of all B·F entries copies and sorts; here a strided sample tells a level that the n
largest lie above, so that only little more than n entries are looked at twice. The choice does not
depend on the sample. Shape suffixes: M entries of the batch, C candidates, N chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saeserve.core.gpu.device import accelerates
from saeserve.core.kernels.ranks import SPARE

_STRIDE = 61
"""Stride of the sample: a prime, so it visits all latents unless d_sae is a multiple of it."""
_SLACK = 1.15
"""Share of candidates that the sampled level aims at."""
MOST_AT_ONCE = 2**28
"""Entries that one `topk` looks at: CUDA's counts have 32 bits, and ranks among equals take 8 bytes
an entry."""
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a number."""


class BatchSelected(NamedTuple):
    """What is kept of a micro-batch."""

    places_N: Tensor
    """int64, ascending: places in the flattened entries."""
    level: Tensor
    """Scalar between the smallest kept and the largest left, neither counted below zero: of all
    entries exactly the kept ones exceed it, unless equals stand on both sides."""


def top_entries(flat_M: Tensor, n: int) -> BatchSelected:
    """The n largest of `flat_M`, of which only positive ones count; among equals the first win.

    With fewer than n positive entries all of them are kept (on an accelerator, where n is static,
    entries that are not positive fill up). NaN counts as largest: a divergence is kept, and shown.
    """
    n = min(n, flat_M.numel())
    if accelerates(flat_M.device):
        return in_parts(flat_M, n)
    candidates_C = _candidates(flat_M, n + 1)
    values_C = flat_M[candidates_C]
    if values_C.numel() < n:
        return BatchSelected(candidates_C, flat_M.new_zeros(()))
    last = values_C.kthvalue(values_C.numel() - n + 1).values
    kept_C = _kept(values_C, last, n)
    left = values_C.masked_fill(kept_C, 0.0).amax()
    return BatchSelected(candidates_C[kept_C], _between(last, left))


def in_parts(flat_M: Tensor, n: int) -> BatchSelected:
    """`without_synchronising`, at most MOST_AT_ONCE entries at a time.

    The n + 1 largest of all are among those of the parts; places stay in ascending order. Where
    that would leave more than a quarter to choose from again, or more than one part, `by_counting`
    takes its place.
    """
    if flat_M.numel() <= MOST_AT_ONCE:
        return without_synchronising(flat_M, n)
    parts = _parts(flat_M)
    if (n + 1) * len(parts) > min(flat_M.numel() // 4, MOST_AT_ONCE):
        return by_counting(flat_M, n)
    places_C = torch.cat(
        [
            without_synchronising(part_M, min(n + 1, part_M.numel())).places_N + start
            for start, part_M in parts
        ]
    )
    chosen = without_synchronising(flat_M[places_C], n)
    return BatchSelected(places_C[chosen.places_N], chosen.level)


def by_counting(flat_M: Tensor, n: int) -> BatchSelected:
    """The same for an n of the order of the entries: only counts of parts are put together.

    Waits for the accelerator at each bit of the n-th largest value, and at each part.
    """
    parts, last = _parts(flat_M), _nth_largest(flat_M, n)
    above = sum(int((~(part_M <= last)).sum()) for _, part_M in parts)
    equals_left, places = n - above, list[Tensor]()
    left = flat_M.new_full((), -torch.inf)
    for start, part_M in parts:
        equal_M = part_M == last
        kept_M = ~(part_M <= last) | (equal_M & (equal_M.cumsum(0) <= equals_left))
        equals_left = max(0, equals_left - int(equal_M.sum()))
        places.append(kept_M.nonzero().squeeze(1) + start)
        left = torch.maximum(left, part_M.masked_fill(kept_M, -torch.inf).amax())
    return BatchSelected(torch.cat(places)[:n], _between(last, left))


def rows_at_once(width: int) -> int:
    """Rows of this width that have at most MOST_AT_ONCE entries together; at least one."""
    return max(1, MOST_AT_ONCE // width)


def _parts(flat_M: Tensor) -> list[tuple[int, Tensor]]:
    """Where each part begins, and its entries."""
    starts = range(0, flat_M.numel(), MOST_AT_ONCE)
    return [(start, flat_M[start : start + MOST_AT_ONCE]) for start in starts]


def _nth_largest(flat_M: Tensor, n: int) -> Tensor:
    """The largest value that n entries reach, NaN among them: by bisection of its bits."""
    low, high = _key(flat_M.new_tensor(-torch.inf)), _key(flat_M.new_tensor(torch.inf))
    while low < high:
        middle = (low + high + 1) // 2
        value = _value(middle, flat_M)
        reached = sum(int((~(part_M < value)).sum()) for _, part_M in _parts(flat_M))
        low, high = (middle, high) if reached >= n else (low, middle - 1)
    return _value(low, flat_M)


def _key(value: Tensor) -> int:
    """A number for each float, ordered as they are."""
    bits = int(value.view(_INTEGERS[value.itemsize]))
    return bits if bits >= 0 else -(bits & (2 ** (8 * value.itemsize - 1) - 1)) - 1


def _value(key: int, like: Tensor) -> Tensor:
    """The float of a key, as a scalar of the type and on the device of `like`."""
    size = like.itemsize
    bits = key if key >= 0 else (-key - 1) - 2 ** (8 * size - 1)
    return torch.tensor(bits, dtype=_INTEGERS[size]).view(like.dtype).to(like.device)


def without_synchronising(flat_M: Tensor, n: int) -> BatchSelected:
    """The same with static shapes, for accelerators."""
    top = flat_M.topk(min(n + 1, flat_M.numel()), sorted=False).values
    edge = top.topk(min(2, top.numel()), largest=False).values
    last = edge[-1] if top.numel() > n else edge[0]
    left = edge[0] if top.numel() > n else edge.new_zeros(())
    kept_M = _kept(flat_M, last, n)
    places_N = torch.nonzero_static(kept_M, size=n).squeeze(1)
    return BatchSelected(places_N, _between(last, left))


def _between(last: Tensor, left: Tensor) -> Tensor:
    return (last.clamp_min(0.0) + left.clamp_min(0.0)) / 2


def _kept(values: Tensor, last: Tensor, n: int) -> Tensor:
    """bool: n entries, all above `last` (the n-th largest) and the first of those that equal it."""
    equal = values == last
    above = ~(values <= last)
    return above | (equal & (equal.cumsum(0) <= n - above.sum()))


def _candidates(flat_M: Tensor, n: int) -> Tensor:
    """Ascending places of positive entries, the n largest among them (all, if there are fewer)."""
    sample = flat_M[::_STRIDE]
    wanted = int(n / _STRIDE * _SLACK) + SPARE
    if wanted < sample.numel():
        level = sample.topk(wanted, sorted=False).values.amin().clamp_min(0.0)
        places_C = _above(flat_M, level)
        if places_C.numel() >= n:
            return places_C
    return _above(flat_M, flat_M.new_zeros(()))


def _above(flat_M: Tensor, level: Tensor) -> Tensor:
    return (~(flat_M <= level)).nonzero().squeeze(1)
