"""Rows beyond the norm bound: which they are, source by source, and that old models have none."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from tests.fakes.sae import random_model

from saeserve.client.features import SparseFeatures, concatenate
from saeserve.core.formats.model import ModelConfig, TensorSource
from saeserve.inference.norms import BLOCK_ROWS, beyond_norm_bound

CONFIG = random_model("threshold").config


def bounded(*bounds: float | None) -> ModelConfig:
    """As many sources as bounds, of equal width."""
    d = CONFIG.d_in // len(bounds)
    sources = tuple(
        TensorSource(name=f"s{i}", offset=i * d, d=d, norm_bound=bound)
        for i, bound in enumerate(bounds)
    )
    return CONFIG.model_copy(update={"inputs": sources, "outputs": sources})


def test_rows_are_named_whose_norm_exceeds_the_bound() -> None:
    x = np.zeros((2 * BLOCK_ROWS + 3, CONFIG.d_in), np.float32)
    x[:, 0] = 5.0
    x[[1, BLOCK_ROWS, len(x) - 1], 1] = 0.1
    x[7] = 3e38
    assert beyond_norm_bound(bounded(5.0), x).tolist() == [1, 7, BLOCK_ROWS, len(x) - 1]
    assert beyond_norm_bound(bounded(None), x).tolist() == []
    assert beyond_norm_bound(bounded(5.0), x[:0]).tolist() == []


def test_each_source_has_a_bound_of_its_own() -> None:
    x = np.zeros((4, CONFIG.d_in), np.float32)
    x[1, 0], x[2, -1], x[3, 0] = 2.0, 2.0, 9.0
    assert beyond_norm_bound(bounded(1.0, 3.0), x).tolist() == [1, 3]
    assert beyond_norm_bound(bounded(None, 1.0), x).tolist() == [2]


def test_the_bound_survives_the_file_and_format_1_has_none() -> None:
    config = bounded(5.0)
    assert ModelConfig.from_bytes(config.to_bytes()) == config
    old = json.loads(CONFIG.to_bytes())
    old["format_version"] = 1
    for source in old["inputs"] + old["outputs"]:
        source.pop("norm_bound", None)
    read = ModelConfig.from_bytes(json.dumps(old).encode())
    assert [source.norm_bound for source in read.inputs] == [None]


def test_the_sdk_numbers_rows_across_the_parts_of_a_call() -> None:
    empty = np.zeros(0, np.int64)
    part = SparseFeatures((3, 8), np.zeros(4, np.int64), empty, np.zeros(0, np.float32))
    parts = [dataclasses.replace(part, beyond_norm_bound=np.array(rows)) for rows in ([2], [0, 1])]
    assert concatenate(parts, (6,)).beyond_norm_bound.tolist() == [2, 3, 4]
