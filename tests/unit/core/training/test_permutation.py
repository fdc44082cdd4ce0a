"""Latents change places, and the run does not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.fakes.training import F, FolderSink, losses, run_all, tiny_setup, tiny_spec

from saeserve.core.architectures.contract import Permutation
from saeserve.core.training.trainer import Trainer


def trained(folder: Path, steps: int, **settings: Any) -> tuple[Trainer, list[float]]:  # noqa: ANN401 - any setting of the architecture
    """One prefix holds all latents, so that their order does not matter to the loss."""
    matryoshka = {"k": 4, "k_aux": 8, "widths": [F], **settings}
    trainer = Trainer.start(
        tiny_setup(tiny_spec("matryoshka", matryoshka=matryoshka, tokens=steps * 64))
    )
    return trainer, losses(run_all(trainer, FolderSink(folder)))


def test_every_tensor_of_a_latent_moves_with_it(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, 5, sort_by_frequency=True, sort_every_steps=100)
    state = trainer.state
    before = {name: value.clone() for name, value in state.tensors().items()}
    order = torch.randperm(F)
    state.permute(Permutation(order, frozenset({"W_enc", "b_enc", "W_dec", "frequency"})))
    after = state.tensors()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    of_latents = {"W_enc", "b_enc", "W_dec"}
    expected = {f"{group}.{name}" for group in ("params", "first", "second") for name in of_latents}
    counters = {f"counters.tokens_since_fired{which}" for which in ("", "_or_resampled")}
    assert moved == expected | counters | {"architecture.frequency"}
    for name in moved:
        assert torch.equal(after[name], before[name][order]), name


def test_a_run_that_sorts_is_the_run_that_does_not(tmp_path: Path) -> None:
    """Moments and dead counters included: a latent that lost its own would train otherwise."""
    plain, expected = trained(tmp_path / "plain", 12)
    settings = {"sort_by_frequency": True, "sort_every_steps": 2}
    sorted_, found = trained(tmp_path / "sorted", 12, **settings)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=0)
    left, right = plain.state.params["W_dec"], sorted_.state.params["W_dec"]
    same = (left @ right.T).argmax(dim=1)
    assert not torch.equal(same, torch.arange(F))
    torch.testing.assert_close(right[same], left, rtol=0, atol=1e-3)
    frequency = sorted_.state.architecture["frequency"]
    assert bool((frequency.diff() <= 0).all())
