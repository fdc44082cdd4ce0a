"""Which documents are held out: by content, and as near to the fraction as whole ones permit."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.data import splitting
from saeserve.core.data.splitting import NEAR, misses, split_of, splits_of


def sha256_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_the_split_follows_from_content_and_fraction() -> None:
    hashes = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(2000)]
    held = {f: {h for h in hashes if split_of(h, f) == "heldout"} for f in (0.0, 0.1, 0.3)}
    assert held[0.0] == set()
    assert held[0.1] < held[0.3]
    assert 150 < len(held[0.1]) < 250
    assert split_of("0" * 64, 0.1) == "heldout"
    assert split_of("f" * 64, 0.9999) == "train"


def held_of(splits: tuple[str, ...], rows: list[int]) -> int:
    return sum(n for split, n in zip(splits, rows, strict=True) if split == "heldout")


def nearest(sizes: list[int], fraction: float) -> float:
    """The least distance from the fraction of any choice of some, but not all: every one tried."""
    total, choices = sum(sizes), range(1, len(sizes))
    sums = (sum(each) for n in choices for each in itertools.combinations(sizes, n))
    return min(abs(held - fraction * total) for held in sums)


@given(
    rows=st.lists(st.integers(0, 1000), min_size=2, max_size=9),
    fraction=st.floats(1e-6, 0.999),
    first=st.integers(0, 10**6),
)
def test_the_fraction_is_met_as_nearly_as_whole_documents_permit(
    rows: list[int], fraction: float, first: int
) -> None:
    hashes = [sha256_of(first + number) for number in range(len(rows))]
    splits = splits_of(hashes, rows, fraction)
    sizes = [count for count in rows if count]
    if len(sizes) < 2:
        assert list(splits) == [split_of(sha256, fraction) for sha256 in hashes]
        return
    held, target = held_of(splits, rows), fraction * sum(rows)
    assert abs(held - target) <= max(nearest(sizes, fraction), NEAR * target) + 1e-9
    order = [int(i) for i in np.random.default_rng(first).permutation(len(rows))]
    again = splits_of([hashes[i] for i in order], [rows[i] for i in order], fraction)
    assert again == tuple(splits[i] for i in order), "the order of the documents decides nothing"


@given(
    copies=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    fraction=st.floats(0, 0.5),
    data=st.data(),
)
def test_copies_share_a_split_and_something_is_held_out_and_left(
    copies: list[int], fraction: float, data: st.DataObject
) -> None:
    rows = [data.draw(st.integers(1, 1000)) for _ in copies]
    hashes = [sha256_of(number) for number in copies]
    splits = splits_of(hashes, rows, fraction)
    assert len(set(zip(hashes, splits, strict=True))) == len(set(hashes))
    if len(set(hashes)) > 1 and fraction > 0:
        assert 0 < held_of(splits, rows) < sum(rows)
    if not fraction:
        assert set(splits) == {"train"}


def test_what_is_held_out_follows_from_content() -> None:
    hashes = [digit * 64 for digit in "9c7e"]
    assert splits_of(hashes, [5, 5, 5, 5], 0.1) == ("train", "train", "heldout", "train")
    assert splits_of(hashes[::-1], [5, 5, 5, 5], 0.1) == ("train", "heldout", "train", "train")
    assert splits_of(hashes, [5, 5, 99, 5], 0.1) == ("heldout", "heldout", "train", "train")
    assert splits_of(hashes, [5, 5, 0, 5], 0.1) == ("heldout", "train", "train", "train")
    assert splits_of(hashes, [5, 5, 5, 5], 0.0) == ("train",) * 4


def test_a_large_data_set_keeps_the_split_of_each_content() -> None:
    """So that two data sets with documents in common hold out the same ones."""
    hashes = [sha256_of(number) for number in range(40_000)]
    drawn = tuple(split_of(sha256, 0.1) for sha256 in hashes)
    assert splits_of(hashes, [7] * len(hashes), 0.1) == drawn


@pytest.mark.parametrize("start", range(8))
def test_twenty_two_documents_hold_out_a_tenth(start: int) -> None:
    rng = np.random.default_rng(start)
    rows = [int(n) for n in rng.integers(2_000, 20_000, 22)]
    splits = splits_of([sha256_of(start * 100 + n) for n in range(22)], rows, 0.1)
    assert held_of(splits, rows) == pytest.approx(sum(rows) / 10, rel=NEAR)


def test_many_rows_are_rounded_and_met_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "_BITS", 2**16)
    rows = [10**8 + 7 * n for n in range(30)]
    hashes = [sha256_of(3000 + n) for n in range(30)]
    assert held_of(splits_of(hashes, rows, 0.1), rows) == pytest.approx(sum(rows) / 10, rel=0.05)


@pytest.mark.parametrize(
    ("held", "asked", "missed"), [(10, 0.1, False), (16, 0.1, True), (4, 0.1, True), (0, 0, False)]
)
def test_what_misses_by_more_than_half_is_known(held: int, asked: float, missed: bool) -> None:
    assert misses(held, 100, asked) == missed
