"""A run on a GPU compares its kernels with plain torch before its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests.fakes.training import tiny_setup, tiny_spec

from saeserve.core.gpu import device, segments, update
from saeserve.core.gpu.device import runs_kernels, switched_off, usable_on_device
from saeserve.core.kernels.topk.weights import DictionaryGradients
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import trainer, trial
from saeserve.core.training.events import Warned
from saeserve.core.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("nothing_compiled")


@pytest.fixture(autouse=True)
def _small_and_nothing_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "refusals", [])
    # An interpreted program takes milliseconds.
    monkeypatch.setattr(trial, "ROWS", 4)
    monkeypatch.setattr(trial, "LATENTS", 4)


def opened(name: str = "topk") -> list[str]:
    """Codes of a fresh run's warnings."""
    warnings = list(Trainer.start(tiny_setup(tiny_spec(name))).opening())
    assert all(isinstance(each, Warned) for each in warnings)
    return [each.code for each in warnings if each.code == "GPU_KERNELS_OFF"]


def used() -> bool:
    return usable_on_device(torch.zeros(2, 2))


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated"])
def test_kernels_that_agree_are_used(name: str) -> None:
    assert opened(name) == []
    assert used()


def wrong_sums(*arguments: object, **options: object) -> DictionaryGradients:
    found = right_sums(*arguments, **options)  # pyright: ignore[reportArgumentType] - passed on
    return dataclasses.replace(found, W_enc=found.W_enc * 1.01)


def fails(*_arguments: object, **_options: object) -> None:
    raise RuntimeError("ptxas is missing")


def moves_too_far(*arguments: object, **options: object) -> None:
    right_move(*arguments, **options)  # pyright: ignore[reportArgumentType] - passed on
    arguments[2][0].mul_(1.01)  # pyright: ignore[reportIndexIssue, reportUnknownMemberType, reportAttributeAccessIssue] - the first moments


right_sums, right_move = segments.gradients, update.move


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (segments, "gradients", wrong_sums),
        (segments, "gradients", fails),
        (update, "move", moves_too_far),
    ],
    ids=["gradients 1 % off", "a kernel raises", "an optimiser 1 % off"],
)
def test_kernels_that_do_not_agree_are_not_used(
    module: object, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    assert opened() == ["GPU_KERNELS_OFF"]
    assert not used()


def test_plain_torch_is_asked_for_in_one_place_alone() -> None:
    with switched_off():
        assert not used()
    assert used()


def test_a_run_without_kernels_has_the_precision_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is low because kernels decide exactly is not low where plain torch decides."""

    def chosen(_spec: TrainSpec, place: torch.device) -> torch.dtype:
        return torch.bfloat16 if runs_kernels(place) else torch.float32

    monkeypatch.setattr(trainer, "encoder_dtype", chosen)
    run = Trainer.start(tiny_setup(tiny_spec("topk")))
    assert run.effective_spec.encoder_dtype == "bfloat16"
    monkeypatch.setattr(segments, "gradients", fails)
    assert [each.code for each in run.opening()][-1] == "GPU_KERNELS_OFF"
    assert run.effective_spec.encoder_dtype == "float32"
