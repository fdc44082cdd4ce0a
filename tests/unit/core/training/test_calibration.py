"""The threshold that a run leaves gives the L0 that was asked for, on rows it has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.fakes.training import (
    FolderSink,
    features_of,
    reconstruction_of,
    run_all,
    tiny_setup,
    tiny_spec,
)

from saeserve.core.training.trainer import Trainer


@pytest.mark.parametrize("micro", [64, 16])
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_the_evaluation_form_has_the_l0_that_was_asked_for(
    name: str, micro: int, tmp_path: Path
) -> None:
    """Within 5 %, k annealed or not, and for small micro-batches, whose levels are noisier."""
    spec = tiny_spec(name, tokens=400 * 64, micro_batch_size=micro, log_every_steps=100)
    setup = tiny_setup(spec)
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(tmp_path))
    form = trainer.form()
    x_BD = setup.preprocessing.apply(setup.source.batch(2**30, 8192))
    l0 = float((features_of(form, x_BD) != 0).sum() / len(x_BD))
    assert l0 == pytest.approx(4.0, rel=0.05)
    left = (reconstruction_of(form, x_BD) - x_BD).square().sum()
    assert float(left / (x_BD - x_BD.mean(0)).square().sum()) < 0.2
    assert trainer.state.architecture["threshold"].dtype == torch.float64
