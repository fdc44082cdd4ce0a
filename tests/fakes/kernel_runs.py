"""Runs that reach every compiled kernel: each answers with the tensors that it ended with."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tests.fakes.feature_codes import D_SAE, VOCABULARY, block_of, random_sequences
from tests.fakes.jumprelu_cases import WAYS, Case, spec_of
from tests.fakes.sources import PlantedSource
from tests.fakes.training import FolderSink, run_all, tiny_setup, tiny_spec
from torch import Tensor

from saeserve.core.architectures.active import entries
from saeserve.core.architectures.contract import Dimensions
from saeserve.core.architectures.jumprelu import fast as jumprelu_fast
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.features import loops
from saeserve.core.features.state import CollectSettings, new_state
from saeserve.core.training.trainer import Trainer

D, F, ROWS, STEPS = 83, 256, 256, 12
"""A latent fires on many rows, so that sums are long; and the width is odd."""
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"k": 16, "k_aux": 8},
    "batchtopk": {"k": 16, "k_aux": 8},
    "matryoshka": {"k": 16, "k_aux": 8, "widths": [32, 96, F]},
    "jumprelu": {"initial_l0": 16.0},
    "relu": {"decoder_norm": 1.0},
    "gated": {},
}
DTYPES = {name: ("float32", "bfloat16") for name in SPECS} | {
    "relu": ("float32",),
    "gated": ("float32",),
}


def trained(name: str, dtype: str) -> Iterable[Tensor]:
    """The parameters of an architecture after some steps."""
    fields: dict[str, Any] = {name: SPECS[name], "d_sae": F, "batch_size": ROWS}
    spec = tiny_spec(name, **fields, tokens=STEPS * ROWS, encoder_dtype=dtype)
    source = PlantedSource(features=2 * F, d=D, active=12, seed=3)
    setup = tiny_setup(spec, source, Dimensions(D, D, F))
    centre = Preprocessing(torch.full((D,), 0.01), 2.0)
    trainer = Trainer.start(replace(setup, preprocessing=centre))
    with tempfile.TemporaryDirectory() as folder:
        run_all(trainer, FolderSink(Path(folder)))
    return trainer.state.params.values()


def jumprelu(way: str) -> Iterable[Tensor]:
    """JumpReLU's gradients, the micro-batch taken one way."""
    spec = spec_of(ste_to_input=True, bandwidth=0.4) if way != "with band" else spec_of()
    drawn: dict[str, Any] = {
        "rows": ROWS,
        "d_in": D,
        "d_out": D,
        "d_sae": F,
        "dtype": torch.float32,
    }
    with mock.patch.object(jumprelu_fast, "choose", WAYS[way]):
        found = Case.draw(spec, **drawn, encoder_dtype=torch.bfloat16).fast()
    return list(found.grads.values())


def graph() -> Iterable[Tensor]:
    """The products of listed entries that autograd of a loss takes."""
    draws = torch.Generator().manual_seed(5)
    values_N = torch.randn(40 * ROWS // 8, generator=draws).requires_grad_()
    bags_N = torch.randint(ROWS, values_N.shape, generator=draws).sort().values
    latents_N = torch.randint(F, values_N.shape, generator=draws)
    W_FD = torch.randn(F, D, generator=draws).requires_grad_()
    loss = entries.decode(values_N, bags_N, latents_N, W_FD, ROWS).square().sum()
    return torch.autograd.grad(loss, (values_N, W_FD))


def collect() -> Iterable[Tensor]:
    """What a collecting pass keeps of two blocks."""
    sequences = random_sequences(5, sequences=40, longest=30, firing=0.4, signed=True, coarse=True)
    sizes = CollectSettings(
        D_SAE, VOCABULARY, seed=3, lowest_exponent=-4, top=3, uniform=3, intervals=3,
        per_interval=2, window=4, entries=3, token_features=3,
    )  # fmt: skip
    state = new_state(sizes)
    weight_F = np.linspace(0.5, 2, D_SAE, dtype=np.float32)
    for part in (sequences[:20], sequences[20:]):
        loops.add_block(state, block_of(part).without_zeros(), weight_F)
    return [torch.as_tensor(array) for array in state.arrays().values()]


RUNS: dict[str, Callable[[], Iterable[Tensor]]] = {
    **{
        f"{name} {dtype}": functools.partial(trained, name, dtype)
        for name in SPECS
        for dtype in DTYPES[name]
    },
    **{f"jumprelu, {way}": functools.partial(jumprelu, way) for way in WAYS},
    "graph": graph,
    "collect": collect,
}
