"""Which documents of a data set are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Split = Literal["train", "heldout"]

NEAR = 0.05
"""A draw that misses the fraction by no more than this share of it is kept."""
_BITS = 2**28
"""Largest sum of rows of the exact search for the nearest; larger ones are rounded."""


def split_of(document_sha256: str, heldout_fraction: float) -> Split:
    """The split of a document: a function of its content, so copies never straddle the split."""
    share = int(document_sha256[:16], 16) / 2**64
    return "heldout" if share < heldout_fraction else "train"


def splits_of(
    hashes: Sequence[str], rows: Sequence[int], heldout_fraction: float
) -> tuple[Split, ...]:
    """The split of each document of a data set, by its hash and its rows; copies have one split.

    By `split_of`, where that holds out the fraction of the rows that was asked for. Where it
    misses that, as it does with few documents, those are held out whose rows together are nearest
    to the fraction, of equally near ones those of small hashes. Something is held out, and
    something is left, wherever there are two documents with rows.
    """
    counts = _counts(hashes, rows)
    drawn = {sha256 for sha256 in hashes if split_of(sha256, heldout_fraction) == "heldout"}
    target = heldout_fraction * sum(counts.values())
    held = sum(count for sha256, count in counts.items() if sha256 in drawn)
    if heldout_fraction > 0 and len(counts) > 1 and abs(held - target) > NEAR * target:
        drawn = drawn - counts.keys() | _nearest(counts, target)
    return tuple("heldout" if sha256 in drawn else "train" for sha256 in hashes)


def misses(heldout_rows: int, rows: int, heldout_fraction: float) -> bool:
    """Whether what is held out misses the fraction by more than half of it."""
    return abs(heldout_rows - heldout_fraction * rows) > heldout_fraction * rows / 2


def _counts(hashes: Sequence[str], rows: Sequence[int]) -> dict[str, int]:
    """Rows of each content that has any, by ascending hash."""
    counts: dict[str, int] = {}
    for sha256, count in sorted(zip(hashes, rows, strict=True)):
        counts[sha256] = counts.get(sha256, 0) + count
    return {sha256: count for sha256, count in counts.items() if count}


def _nearest(counts: Mapping[str, int], target: float) -> set[str]:
    """Contents whose rows sum nearest to `target`: at least one, and not all."""
    sizes = list(counts.items())
    # Twice the target is as far from it as nothing at all, but one content may be larger still.
    most = min(sum(counts.values()) - 1, max(int(2 * target) + 1, min(counts.values())))
    unit = max(1, most * len(sizes) // _BITS)
    sums, reached = 1, list[int]()
    for _, count in sizes:
        reached.append(sums)
        sums |= (sums << _units(count, unit)) & ((1 << most // unit + 1) - 1)
    left = _nearest_bit(sums, target / unit)
    chosen: set[str] = set()
    for (sha256, count), before in zip(reversed(sizes), reversed(reached), strict=True):
        if not before >> left & 1:
            chosen.add(sha256)
            left -= _units(count, unit)
    return chosen


def _units(count: int, unit: int) -> int:
    return max(1, round(count / unit))


def _nearest_bit(bits: int, target: float) -> int:
    """The number of the bit, other than bit 0, that is set and nearest to `target`; of two equally
    near ones the lower."""
    at = int(target)
    below = (bits & ((1 << at + 1) - 1)).bit_length() - 1
    above = bits >> at + 1
    next_one = at + (above & -above).bit_length() if above else -1
    if below < 1 or (next_one > 0 and next_one - target < target - below):
        return next_one
    return below
