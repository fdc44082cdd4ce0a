"""The canonical exported model: raw activations in, sparse features out, and back.

Formulas: DESIGN section 3 ("Three forms"), repeated in `fold`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from saeserve.core.specs.model import ModelConfig


@dataclass(frozen=True)
class SparseRows:
    """Features of rows in CSR form: `offsets` int64 [rows + 1], `indices` int64 ascending in each
    row, `values` float32."""

    offsets: Tensor
    indices: Tensor
    values: Tensor
    d_sae: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.offsets.numel() - 1


@dataclass(frozen=True)
class InferenceModel:
    """An exported SAE; takes raw activations. Decoder rows have unit norm.

    Shapes: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out],
    threshold [d_sae] for threshold models (infinite for dead latents), centre [d_in] (the mean
    folded into b_enc), frequency and maximum [d_sae] (share of held-out rows in which a latent
    fires, and its largest value there).
    """

    config: ModelConfig
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None
    centre: Tensor
    frequency: Tensor
    maximum: Tensor

    def encode(self, x: Tensor) -> SparseRows:
        """Sparse features of raw rows [rows, d_in]; exact in float32."""
        raise NotImplementedError

    def decode(self, features: SparseRows) -> Tensor:
        """Reconstructions [rows, d_out] in raw activation space."""
        raise NotImplementedError


FloatArray = npt.NDArray[np.float32]
