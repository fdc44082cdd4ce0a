"""Exported models encode in kernels as they do in plain torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tests.fakes.inference_server import crosscoder
from tests.fakes.sae import Kind, generator, random_model
from torch import Tensor

from saeserve.core.export import device_trial, on_device
from saeserve.core.export.device_model import DeviceModel, placed
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.on_device import KernelEncoder
from saeserve.core.export.recorded import RecordedEncoder
from saeserve.core.formats.model import RowNorm, TopKActivation
from saeserve.core.gpu import thresholds
from saeserve.core.gpu.thresholds import Listed
from saeserve.errors import InvalidInput
from saeserve.inference import packing
from saeserve.inference.engine import TorchEngine
from saeserve.inference.rows import DenseRows, FeatureRows
from saeserve.inference.work import Operation

KINDS: list[Kind] = ["topk", "threshold", "relu"]
ROWS = 3 * torch.randn(5, 12, generator=generator(3))


@pytest.fixture(params=[1.0, 0.0], ids=["low", "float32"], autouse=True)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Which product is used, whatever the number of features."""
    monkeypatch.setattr(on_device, "DENSE_SHARE", request.param)
    # An interpreted program takes milliseconds.
    monkeypatch.setattr(device_trial, "ROWS", 3)
    return request.param


def encoder_of(model: InferenceModel) -> KernelEncoder:
    there = placed(model, model.device)
    assert isinstance(there, DeviceModel)
    assert isinstance(there.encoder, RecordedEncoder)
    assert isinstance(there.encoder.encoder, KernelEncoder)
    return there.encoder.encoder


def by_kernels(model: InferenceModel, x_BD: Tensor) -> FeatureRows:
    """Read back as the service does, with as much room as is needed."""
    encoder = encoder_of(model)
    while True:
        found = encoder.encode(x_BD)
        buffer = found.buffer.numpy()
        needed, enough = packing.needed_room(buffer, found.layouts)
        encoder.note(needed)
        if enough:
            return packing.features_of(buffer, found.layouts, model.config.d_sae)


def by_torch(model: InferenceModel, x_BD: Tensor) -> FeatureRows:
    answer = TorchEngine().run(model, Operation.ENCODE, DenseRows(x_BD.numpy()))
    assert isinstance(answer, FeatureRows)
    return answer


def same(mine: FeatureRows, other: FeatureRows) -> None:
    assert mine.offsets.tolist() == other.offsets.tolist()
    assert mine.indices.tolist() == other.indices.tolist()
    assert mine.indices.dtype == other.indices.dtype
    np.testing.assert_allclose(mine.values, other.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["topk", pytest.param("threshold", marks=pytest.mark.sample), "relu"]
)
def test_features_are_those_of_plain_torch(kind: Kind) -> None:
    model = random_model(kind)
    same(by_kernels(model, ROWS), by_torch(model, ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_row_blocks_change_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(kind)
    monkeypatch.setattr(on_device, "BLOCK_BYTES", 2 * 4 * 40)
    same(by_kernels(model, ROWS), by_torch(model, ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_rows_bring_their_statistics(kind: Kind) -> None:
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
    model = random_model(kind)
    model = dataclasses.replace(model, config=model.config.model_copy(update={"row_norm": norm}))
    mine, other = by_kernels(model, ROWS + 4), by_torch(model, ROWS + 4)
    same(mine, other)
    assert mine.statistics is not None
    assert other.statistics is not None
    np.testing.assert_allclose(mine.statistics, other.statistics, rtol=1e-5)


@pytest.mark.parametrize(("kind", "normalises"), [("topk", False), ("topk", True), ("relu", False)])
def test_reconstructions_are_those_of_plain_torch(kind: Kind, normalises: bool) -> None:
    model = random_model(kind)
    if normalises:
        norm = RowNorm(kind="layer_norm", eps=1e-5)
        config = model.config.model_copy(update={"row_norm": norm})
        model = dataclasses.replace(model, config=config)
    there = placed(model, model.device)
    torch.testing.assert_close(there.reconstruct(ROWS), model.reconstruct(ROWS))
    assert there.reconstruct(ROWS[:0]).shape == (0, 12)


def test_fewer_positive_entries_than_k_are_fewer_features() -> None:
    model = random_model("topk")
    shifted = dataclasses.replace(model, b_enc=model.b_enc - 12)
    mine = by_kernels(shifted, ROWS)
    assert 0 < len(mine.values) < 5 * len(ROWS)
    same(mine, by_torch(shifted, ROWS))


def test_the_threshold_is_strict() -> None:
    model = random_model("threshold")
    threshold = by_kernels(dataclasses.replace(model, threshold=torch.zeros(40)), ROWS[:1])
    at = torch.full((40,), torch.inf)
    at[torch.as_tensor(threshold.indices.astype("int64"))] = torch.as_tensor(threshold.values)
    assert len(threshold.values) > 5
    assert len(by_kernels(dataclasses.replace(model, threshold=at), ROWS[:1]).values) == 0
    below = torch.nextafter(at, torch.tensor(0.0))
    found = by_kernels(dataclasses.replace(model, threshold=below), ROWS[:1])
    assert found.values.tolist() == threshold.values.tolist()


def test_ties_go_to_the_lower_latent() -> None:
    model = random_model("topk")
    twins = dataclasses.replace(
        model, W_enc=model.W_enc[:, :20].repeat(1, 2), b_enc=model.b_enc[:20].repeat(2)
    )
    same(by_kernels(twins, ROWS), by_torch(twins, ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_float32_is_refused(kind: Kind) -> None:
    with pytest.raises(InvalidInput, match="leaves float32"):
        by_kernels(random_model(kind), ROWS.sign() * 3e38)


def test_the_low_copies_count_as_memory(product: float) -> None:
    model = random_model("topk")
    there = placed(model, model.device)
    # Two bytes a weight and bias, and four norms in float32 a latent.
    copies = 40 * (2 * 12 + 2 + 16) if product else 0
    assert there.size_bytes == model.size_bytes + copies
    assert all(torch.equal(there.tensors[name], value) for name, value in model.tensors.items())


def other_forms() -> list[InferenceModel]:
    model = random_model("topk")
    kept = [TopKActivation(k=5, post="none"), TopKActivation(k=5, post="abs")]
    configs = [model.config.model_copy(update={"activation": one}) for one in kept]
    return [crosscoder(), *(dataclasses.replace(model, config=config) for config in configs)]


def test_other_forms_are_left_to_plain_torch() -> None:
    for model in other_forms():
        assert not isinstance(placed(model, model.device), DeviceModel)


def too_large(right: Callable[..., Listed], *arguments: object) -> Listed:
    found = right(*arguments)
    return dataclasses.replace(found, values_N=found.values_N * 1.01)


def fails(_right: Callable[..., Listed], *_arguments: object) -> Listed:
    raise RuntimeError("ptxas is missing")


@pytest.mark.parametrize("broken", [too_large, fails])
def test_a_model_whose_kernels_do_not_agree_is_left_to_plain_torch(
    broken: Callable[..., Listed], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("threshold")
    assert isinstance(placed(model, model.device), DeviceModel)
    for name in ("above", "above_of_low"):
        monkeypatch.setattr(thresholds, name, partial(broken, getattr(thresholds, name)))
    assert not isinstance(placed(model, model.device), DeviceModel)
