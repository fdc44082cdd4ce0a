"""The rows that `make demo` harvested, and what is measured on those held out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from bench.planted.recovery import Dictionary
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.source import ShardSource
from saeserve.core.evaluation.reconstruction import Variation
from saeserve.core.specs.training import PreprocessSpec

EVALUATED_ROWS = 16_384
EVALUATED_AT_ONCE = 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which data set, and which source of it."""
    parser.add_argument(
        "--dataset", type=Path, default=Path(".saeserve/demo/store/datasets/demo-smollm2")
    )
    parser.add_argument("--source", default="resid_post.15")


def check(dataset: Path) -> None:
    """End the program with a word of advice where there is no data set."""
    if not (dataset / "manifest.json").exists():
        sys.exit(f"{dataset} holds no READY data set: run `make demo` first")


def training_rows(dataset: Path, source: str, seed: int) -> ShardSource:
    """Raw training rows in the order of `seed`, cut as jobs cut them."""
    spec = PreprocessSpec()
    return ShardSource(
        ShardedDataset.open(dataset),
        source,
        norm_cut=spec.norm_cut,
        seed=seed,
        window_shards=spec.window_shards,
    )


def heldout_rows(dataset: Path, source: str) -> Iterator[Tensor]:
    """Raw held-out rows, cut as the headline FVU is."""
    rows = ShardedDataset.open(dataset).heldout(
        source,
        norm_cut=PreprocessSpec().norm_cut,
        max_rows=EVALUATED_ROWS,
        batch=EVALUATED_AT_ONCE,
    )
    return (block.x_BD for block in rows)


def heldout_figures(dictionary: Dictionary, rows: Iterator[Tensor]) -> dict[str, float]:
    """FVU against the rows' own mean, the share of latents that never fire, L0.

    FVU does not depend on how rows were centred and scaled.
    """
    variation, squared_error, fired_F = Variation(), 0.0, torch.zeros(())
    with torch.no_grad():
        for x_BD in rows:
            f_BF = dictionary.encode(x_BD)
            squared_error += float((x_BD.double() - dictionary.decode(f_BF)).square().sum())
            variation.add(x_BD.double())
            fired_F = fired_F + (f_BF != 0).sum(dim=0)
    return {
        "fvu": squared_error / variation.squares,
        "silent": float((fired_F == 0).double().mean()),
        "l0": float(fired_F.sum()) / variation.rows,
    }
