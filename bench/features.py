"""CPU time of collecting what features fire on, codes given, and of reading it back.

    python -m bench.features [--blocks 8] [--read]

Codes are random: k latents a row, their frequencies falling as 1 / rank, values log-normal. Time
is the process's own (user and system), on one thread, so that what else runs on the machine counts
little. The first block compiles and is left out. `--read` writes a bundle of 131,072 features and
prints how long a page of one feature takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tests.fakes.feature_bundles import make_bundle

from saeserve.core.features.blocks import BLOCK_ROWS, Block
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.loops import add_block
from saeserve.core.features.state import CollectSettings, new_state

WIDTHS = (32_768, 131_072)
K = 32
SEQUENCE = 256
VOCABULARY = 49_152
PAGES = 500


def main() -> None:
    """Print a line for each width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rows", type=int, default=BLOCK_ROWS)
    parser.add_argument("--read", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for d_sae in WIDTHS:
        _collect(d_sae, args.blocks, args.rows)
    if args.read:
        _read(WIDTHS[-1])


def _collect(d_sae: int, blocks: int, rows: int) -> None:
    settings = CollectSettings(d_sae, VOCABULARY)
    state = new_state(settings)
    weight_F = np.ones(d_sae, np.float32)
    spent: list[float] = []
    for block in random_blocks(d_sae, blocks + 1, rows):
        began = time.process_time()
        block.check(settings)
        add_block(state, block.without_zeros(), weight_F)
        spent.append(time.process_time() - began)
    per_token = sum(spent[1:]) / (blocks * rows)
    print(
        f"d_sae {d_sae}, k {K}: {per_token * 1e6:.2f} us of CPU a token, "
        f"{1 / per_token:,.0f} tokens/s; second block {spent[1] / rows * 1e6:.2f} us, last "
        f"{spent[-1] / rows * 1e6:.2f} us; state {state.size_bytes / 2**20:.0f} MiB"
    )


def random_blocks(d_sae: int, count: int, rows: int) -> Iterator[Block]:
    """Blocks of sequences whose features are drawn by a power law."""
    rng = np.random.default_rng(0)
    names = rng.permutation(d_sae).astype(np.int32)
    for number in range(count):
        # The inverse of a distribution with density 1 / rank.
        rank = np.exp(rng.random((rows, K)) * np.log(d_sae)).astype(np.int64) - 1
        latents = np.sort(names[np.minimum(rank, d_sae - 1)], axis=1)
        values = np.exp(rng.standard_normal((rows, K), np.float32))
        start = number * rows
        firsts = start + np.arange(0, rows, SEQUENCE)
        yield Block(
            np.arange(0, rows * K + 1, K),
            latents.reshape(-1),
            values.reshape(-1),
            start + np.arange(rows),
            rng.integers(0, VOCABULARY, rows).astype(np.int32),
            np.arange(rows) // SEQUENCE,
            np.stack([firsts, np.minimum(firsts + SEQUENCE, start + rows)], axis=1),
        )


def _read(d_sae: int) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        made = make_bundle(Path(folder) / "bundle", d_sae, sequences=20_000)
        size = sum(path.stat().st_size for path in made.iterdir())
        print(f"a bundle of {d_sae} features has {size / 2**20:.0f} MiB")
        with FeatureBundle.open(made) as bundle:
            features = rng.integers(0, d_sae, PAGES).tolist()
            offsets = rng.integers(0, d_sae - 50, PAGES).tolist()
            _quantiles("a feature", bundle.feature, features)
            _quantiles("a list", lambda at: bundle.list_features("max", offset=at), offsets)
            _quantiles("a token", lambda at: bundle.search_token(f"part{at % 500}"), offsets)


def _quantiles(what: str, read: Callable[[int], object], numbers: list[int]) -> None:
    spent: list[float] = []
    for number in numbers:
        began = time.perf_counter()
        read(number)
        spent.append((time.perf_counter() - began) * 1e3)
    low, high = np.quantile(spent, (0.5, 0.95))
    print(f"{what}: p50 {low:.1f} ms, p95 {high:.1f} ms")


if __name__ == "__main__":
    main()
