"""What the handlers check of rows, and which rows they name."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import InvalidInput
from saeserve.inference.model_cache import Loaded
from saeserve.inference.norms import beyond_norm_bound
from saeserve.inference.refusals import too_large
from saeserve.inference.rows import DenseRows
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES

MAX_RESULT_BYTES = 2 * MAX_MESSAGE_BYTES
"""Maximum size of an answer in float32, which may be sent as half of that."""
_SMALL = 2**18
"""Values whose norms are taken sooner than a thread is woken."""
RowNumbers = npt.NDArray[np.int64]


def no_rows() -> RowNumbers:
    """An empty list of row numbers."""
    return np.zeros(0, np.int64)


async def rows_beyond(loaded: Loaded[InferenceModel], rows: DenseRows) -> RowNumbers:
    """Rows beyond the norm bound; what takes long leaves the event loop."""
    config = loaded.model.config
    if all(source.norm_bound is None for source in config.inputs):
        return no_rows()
    if rows.sent.size <= _SMALL:
        return beyond_norm_bound(config, rows.sent)
    return await asyncio.to_thread(beyond_norm_bound, config, rows.sent)


def check_width(rows: DenseRows, loaded: Loaded[InferenceModel]) -> None:
    """Raise InvalidInput for rows of another width than the model reads."""
    d_in = loaded.model.config.d_in
    if rows.d != d_in:
        raise mismatch(loaded, "d_in", d_in, rows.d, "activations.shape")


def check_result(rows: int, d_out: int) -> None:
    """Raise InvalidInput for an answer that no message can hold."""
    if rows * d_out * 4 > MAX_RESULT_BYTES:
        raise too_large()


def mismatch(
    loaded: Loaded[InferenceModel], name: str, wanted: int, given: int, field: str
) -> InvalidInput:
    """The refusal of a request whose `field` has another width than the model."""
    return InvalidInput(
        f"{loaded.resource} has {name} = {wanted}, the request {given}",
        code="WIDTH_MISMATCH",
        field=field,
        remedy=f"send rows of width {wanted}, or name another model",
    )
