"""What the engine says where its device has no memory."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes.small_model import small_model
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import TopKActivation
from saeserve.errors import Overloaded
from saeserve.inference.engine import TorchEngine
from saeserve.inference.rows import DenseRows
from saeserve.inference.work import Operation


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=repr,
)
def test_callers_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_model: InferenceModel, _x_BD: Tensor) -> None:
        raise error

    monkeypatch.setattr(InferenceModel, "encode", fail)
    model, rows = small_model(TopKActivation(k=4)), DenseRows(np.ones((2, 6), np.float32))
    with pytest.raises(Overloaded, match="no memory for 2 rows") as caught:
        TorchEngine().run(model, Operation.ENCODE, rows)
    assert caught.value.code == "OUT_OF_MEMORY"
