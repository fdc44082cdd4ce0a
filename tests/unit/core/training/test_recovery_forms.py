"""Transcoders and crosscoders recover a planted map: both sources are sums of the same codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.fakes.forms import D_X, PlantedPair, form_setup, form_spec
from tests.fakes.training import FolderSink, run_all
from torch import Tensor

from saeserve.core.training.trainer import Trainer

COSINE = 0.95
FEATURES = 16
SETTINGS = {"topk": {"k": 2}, "jumprelu": {"initial_l0": 12, "sparsity_coefficient": 0.3}}


def unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-9)


def cosines(planted_GD: Tensor, found_FD: Tensor) -> Tensor:
    return unit(planted_GD) @ unit(found_FD).T


def trained(name: str, form: str, source: PlantedPair, folder: Path) -> Trainer:
    spec = form_spec(
        name,
        form,
        **{name: SETTINGS[name]},
        tokens=1500 * 64,
        optimizer={"lr": 1e-2},
        log_every_steps=500,
        checkpoint_every_steps=2000,
    )
    trainer = Trainer.start(form_setup(spec, form, source))
    run_all(trainer, FolderSink(folder))
    return trainer


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_transcoder_learns_which_input_makes_which_output(name: str, tmp_path: Path) -> None:
    source = PlantedPair(features=FEATURES, active=2, seed=3)
    form = trained(name, "transcoder", source, tmp_path).form()
    written_GF = cosines(source.B_GY, form.W_dec_FO)
    found = written_GF.amax(dim=1) > COSINE
    assert float(found.double().mean()) >= 0.9
    # The latent that writes a feature's output reads that feature more than any other.
    reads_FG = form.W_enc_FD @ source.A_GX.T
    own = reads_FG[written_GF.argmax(dim=1)].argmax(dim=1) == torch.arange(FEATURES)
    assert float(own.double().mean()) >= 0.9


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_crosscoder_finds_one_latent_for_both_sources(name: str, tmp_path: Path) -> None:
    source = PlantedPair(features=FEATURES, active=2, seed=3)
    W_dec = trained(name, "crosscoder", source, tmp_path).form().W_dec_FO
    both_GF = torch.minimum(
        cosines(source.A_GX, W_dec[:, :D_X]), cosines(source.B_GY, W_dec[:, D_X:])
    )
    assert float((both_GF.amax(dim=1) > COSINE).double().mean()) >= 0.9
