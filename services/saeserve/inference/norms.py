"""Which rows lie beyond the norm up to which a model was trained."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saeserve.core.formats.model import ModelConfig
from saeserve.inference.rows import SentArray, widened

BLOCK_ROWS = 4096


def beyond_norm_bound(config: ModelConfig, sent: SentArray) -> npt.NDArray[np.int64]:
    """Numbers of the rows [rows, d_in] of which a source exceeds its bound, ascending."""
    beyond = np.zeros(len(sent), dtype=np.bool_)
    for source in config.inputs:
        if source.norm_bound is not None:
            columns = slice(source.offset, source.offset + source.d)
            for start in range(0, len(sent), BLOCK_ROWS):
                part = sent[start : start + BLOCK_ROWS, columns]
                block = widened(part).astype(np.float64)
                squares = np.einsum("bd,bd->b", block, block)
                beyond[start : start + BLOCK_ROWS] |= squares > source.norm_bound**2
    return np.flatnonzero(beyond)
