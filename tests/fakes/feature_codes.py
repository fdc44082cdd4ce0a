"""Codes of made-up sequences, as blocks of a collecting pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeserve.core.features.blocks import Block

D_SAE = 7
VOCABULARY = 11


@dataclass(frozen=True)
class Codes:
    """A sequence: where it begins in the token file, its tokens, and (feature, value) of each."""

    start: int
    tokens: list[int]
    codes: list[list[tuple[int, float]]]


def random_sequences(
    seed: int,
    *,
    sequences: int,
    longest: int,
    firing: float,
    signed: bool = False,
    coarse: bool = False,
) -> list[Codes]:
    """Sequences in which each feature fires on a share `firing` of the tokens; `coarse` values
    are often equal."""
    rng = np.random.default_rng(seed)
    made: list[Codes] = []
    start = 0
    for _ in range(sequences):
        length = int(rng.integers(1, longest + 1))
        tokens = rng.integers(0, VOCABULARY, length).tolist()
        made.append(Codes(start, tokens, [_row(rng, firing, signed, coarse) for _ in tokens]))
        start += length
    return made


def block_of(sequences: Sequence[Codes]) -> Block:
    """One block of these sequences."""
    rows = [row for one in sequences for row in one.codes]
    lengths = [len(one.codes) for one in sequences]
    starts = np.asarray([one.start for one in sequences], np.int64)
    entries = [entry for row in rows for entry in row]
    return Block(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.asarray([feature for feature, _ in entries], np.int32),
        np.asarray([value for _, value in entries], np.float32),
        np.concatenate([s + np.arange(n) for s, n in zip(starts, lengths, strict=True)]),
        np.asarray([token for one in sequences for token in one.tokens], np.int32),
        np.repeat(np.arange(len(sequences)), lengths),
        np.stack([starts, starts + lengths], axis=1),
    )


def cut(sequences: Sequence[Codes], chance: random.Random) -> list[Block]:
    """The sequences in blocks of random sizes, the blocks in a random order."""
    blocks: list[Block] = []
    left = list(sequences)
    while left:
        size = chance.randint(1, len(left))
        blocks.append(block_of(left[:size]))
        left = left[size:]
    chance.shuffle(blocks)
    return blocks


def _row(
    rng: np.random.Generator, firing: float, signed: bool, coarse: bool
) -> list[tuple[int, float]]:
    fired = np.flatnonzero(rng.random(D_SAE) < firing)
    size = np.exp2(rng.uniform(-3, 6, len(fired)))
    values = np.exp2(np.floor(np.log2(size))) if coarse else size
    values *= rng.choice([-1, 1], len(fired)) if signed else 1
    return list(zip(fired.tolist(), values.astype(np.float32).tolist(), strict=True))
