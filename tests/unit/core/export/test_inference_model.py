"""Encoding and decoding of an exported model."""

import dataclasses
from typing import Literal

import pytest
import torch
from tests.fakes.sae import Kind, generator, random_model
from tests.fakes.sparse_rows import assert_well_formed
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import TopKActivation
from saeserve.core.ops import sparse
from saeserve.errors import DataMismatchError

KINDS: list[Kind] = ["topk", "threshold", "relu"]
ROWS = 3 * torch.randn(25, 12, generator=generator(3))


def _pre_activations(model: InferenceModel) -> Tensor:
    return ROWS @ model.W_enc + model.b_enc


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_a_well_formed_csr_without_zeros(kind: Kind) -> None:
    features = random_model(kind).encode(ROWS)
    assert_well_formed(features)
    assert features.values.dtype == torch.float32
    assert bool((features.values > 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_row_blocks_change_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(kind)
    whole = model.encode_dense(ROWS)
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 7 * 4 * 40)
    torch.testing.assert_close(model.encode_dense(ROWS), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_make_no_features(kind: Kind) -> None:
    model = random_model(kind)
    features = model.encode(ROWS[:0])
    assert (features.rows, features.values.numel()) == (0, 0)
    assert model.decode(features).shape == (0, 12)


def test_a_row_without_features_decodes_to_the_bias() -> None:
    model = random_model("threshold")
    silent = dataclasses.replace(model, threshold=torch.full((40,), torch.inf))
    assert torch.equal(silent.reconstruct(ROWS), model.b_dec.expand(25, 12))


def test_the_threshold_is_strict() -> None:
    model = random_model("threshold")
    h_BF = torch.addmm(model.b_enc, ROWS[:1], model.W_enc)
    at_BF = dataclasses.replace(model, threshold=h_BF[0].abs()).encode_dense(ROWS[:1])
    below = torch.nextafter(h_BF[0].abs(), torch.tensor(0.0))
    below_BF = dataclasses.replace(model, threshold=below).encode_dense(ROWS[:1])
    assert not at_BF.any()
    assert torch.equal(below_BF[0], h_BF[0].relu())


def _with_post(post: Literal["relu", "none", "abs"]) -> InferenceModel:
    model = random_model("topk")
    shifted = model.b_enc - 100  # so that the largest are negative
    config = model.config.model_copy(update={"activation": TopKActivation(k=5, post=post)})
    return dataclasses.replace(model, config=config, b_enc=shifted)


def test_relu_drops_negative_choices() -> None:
    assert _with_post("relu").encode(ROWS).values.numel() == 0


def test_none_keeps_the_largest_with_their_signs() -> None:
    model = _with_post("none")
    features_BF = model.encode_dense(ROWS)
    expected = _pre_activations(model).topk(5, dim=1).values
    assert bool((features_BF < 0).any())
    torch.testing.assert_close(features_BF.sum(1), expected.sum(1), rtol=1e-4, atol=1e-4)


def test_abs_keeps_the_largest_magnitudes_with_their_signs() -> None:
    model = _with_post("abs")
    h_BF = _pre_activations(model)
    chosen = h_BF.abs().topk(5, dim=1).indices
    expected_BF = torch.zeros_like(h_BF).scatter(1, chosen, h_BF.gather(1, chosen))
    torch.testing.assert_close(model.encode_dense(ROWS), expected_BF, rtol=1e-4, atol=1e-4)


def test_low_precision_rows_are_encoded_in_float32() -> None:
    model, half = random_model("relu"), ROWS.half()
    assert torch.equal(model.encode_dense(half), model.encode_dense(half.float()))


@pytest.mark.parametrize("shape", [(3, 11), (12,), (1, 1, 12)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataMismatchError, match="do not fit d_in = 12"):
        random_model("relu").encode(torch.zeros(shape))


def test_features_of_another_model_are_refused() -> None:
    features = random_model("relu", d_sae=41).encode(ROWS)
    with pytest.raises(DataMismatchError, match="d_sae = 41, the model 40"):
        random_model("relu").decode(features)


def test_size_counts_every_tensor_and_moving_keeps_them() -> None:
    model = random_model("threshold")
    assert model.size_bytes == 4 * (2 * 12 * 40 + 4 * 40 + 2 * 12)
    moved = model.to(torch.device("cpu"))
    assert all(torch.equal(moved.tensors[name], value) for name, value in model.tensors.items())
    assert random_model("relu").to(torch.device("cpu")).threshold is None
