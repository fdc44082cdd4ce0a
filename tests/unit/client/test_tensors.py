"""What the SDK puts on the wire and reads off it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import SparseFeatures, concatenate
from saeserve.client.tensors import from_sparse, from_tensor, to_sparse, to_tensor

finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=finite))
def test_f32_round_trip_is_exact(rows: np.ndarray) -> None:
    assert np.array_equal(from_tensor(to_tensor(rows, "f32")), rows)


@given(hnp.arrays(np.float32, (3, 4), elements=finite))
def test_bf16_rounds_to_nearest(rows: np.ndarray) -> None:
    back = from_tensor(to_tensor(rows, "bf16"))
    assert np.all(np.abs(back - rows) <= np.abs(rows) * 2.0**-8)


def test_bf16_keeps_nan_for_the_server_to_refuse() -> None:
    rows = np.array([np.nan, np.inf], np.float32)
    back = from_tensor(to_tensor(rows, "bf16"))
    assert np.isnan(back[0])
    assert np.isposinf(back[1])


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_other_types_are_refused_naming_the_remedy(dtype: type[np.generic]) -> None:
    with pytest.raises(InvalidArgumentError, match="float32") as caught:
        to_tensor(np.zeros((2, 2), dtype), "f32")
    assert caught.value.field == "activations"


def _features(d_sae: int) -> SparseFeatures:
    return SparseFeatures(
        (3, d_sae),
        np.array([0, 2, 2, 3]),
        np.array([1, 5, 0]),
        np.array([0.5, 1.5, 2.5], np.float32),
    )


@pytest.mark.parametrize("d_sae", [8, 70_000])
def test_csr_round_trip(d_sae: int) -> None:
    sent = _features(d_sae)
    back = from_sparse(to_sparse(sent), "m", 0.0, 0.0)
    assert np.array_equal(back.offsets, sent.offsets)
    assert np.array_equal(back.indices, sent.indices)
    assert np.array_equal(back.values, sent.values)
    assert back.shape == sent.shape


def test_concatenate_keeps_rows_in_order() -> None:
    both = concatenate([_features(8), _features(8)], (2, 3))
    assert both.shape == (2, 3, 8)
    assert np.array_equal(both.to_dense()[0], both.to_dense()[1])
    assert both.row(3)[0].tolist() == [1, 5]
    assert both.to_scipy().shape == (6, 8)
    assert both.l0 == 1.0
