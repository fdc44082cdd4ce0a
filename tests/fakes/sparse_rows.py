"""CSR rows from dense ones, and what is true of all that are well formed."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.core.ops.sparse import SparseRows


def from_dense(f_BF: Tensor) -> SparseRows:
    """The non-zero entries of f [B, F]."""
    return sparse.from_mask(f_BF, f_BF != 0)


def assert_well_formed(features: SparseRows) -> None:
    """Offsets ascend over all entries, latents ascend in each row, values are finite."""
    stored = features.values.numel()
    assert features.latents.numel() == stored
    assert (int(features.offsets[0]), int(features.offsets[-1])) == (0, stored)
    assert bool((features.offsets.diff() >= 0).all())
    places_N = features.row_of_entry * features.d_sae + features.latents
    assert bool((places_N.diff() > 0).all())
    assert bool(((features.latents >= 0) & (features.latents < features.d_sae)).all())
    assert bool(torch.isfinite(features.values).all())
