"""An encoder in kernels against plain torch, on a few rows, when a model is loaded.

As `core.training.trial` for runs: kernels that were right on one card may not be so on another. A
model whose encoder does not agree is encoded by plain torch.
"""

from __future__ import annotations

from itertools import repeat

import torch
from torch import Tensor

from saeserve.core.export.device_model import DeviceEncoder, Layout
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops.sparse import to_dense

ROWS = 32
SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Raw rows have any scale: features are none on some of these, and many on others."""
TOLERANCE = 1e-3
"""Largest norm of a difference, relative to the norm."""


def disagreement(model: InferenceModel, encoder: DeviceEncoder) -> str:
    """What `encoder` computes otherwise than `model` by itself; "" where nothing."""
    try:
        found_BF, wanted_BF = _both(model, encoder)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"a kernel failed with {type(error).__name__}: {error}"
    gap_B, scale_B = _norms(found_BF - wanted_BF), _norms(wanted_BF)
    # Asked this way round, NaN is a disagreement.
    differ_B = ~(gap_B <= TOLERANCE * scale_B)
    wrong, all_rows = int(differ_B.sum()), int(((scale_B > 0) | differ_B).sum())
    # Two sums of one number, each with its own rounding, may part latents that nearly tie; most
    # rows do not do so by chance.
    return f"{wrong} of {all_rows} rows with features differ" if 2 * wrong > all_rows else ""


def _norms(rows_BF: Tensor) -> Tensor:
    return rows_BF.double().square().sum(1).sqrt()


def _both(model: InferenceModel, encoder: DeviceEncoder) -> tuple[Tensor, Tensor]:
    """Features [B, F] of both."""
    x_BD = _rows(model.config.d_in).to(model.device)
    # Room for all that there can be, so that one call gives everything.
    encoder.note(model.config.d_sae)
    found = encoder.encode(x_BD)
    encoder.note(0)
    parts = found.buffer.split_with_sizes([layout.size for layout in found.layouts])
    blocks = map(_dense, found.layouts, parts, repeat(model.config.d_sae))
    return torch.cat(list(blocks)), to_dense(model.encode(x_BD))


def _rows(d_in: int) -> Tensor:
    drawn_BD = torch.randn(ROWS, d_in, generator=torch.Generator().manual_seed(0))
    return drawn_BD * torch.tensor([SCALES[row % len(SCALES)] for row in range(ROWS)])[:, None]


def _dense(layout: Layout, buffer: Tensor, d_sae: int) -> Tensor:
    """Features of a block, [B, F]."""
    row_B, start = torch.arange(layout.rows, device=buffer.device), layout.size - 2 * layout.room
    counts_B = layout.k if layout.k is not None else buffer[1 : 1 + layout.rows].long()
    row_N = row_B.repeat_interleave(counts_B)
    latents_N = buffer[start : start + layout.room][: len(row_N)].long()
    values_N = buffer[start + layout.room :][: len(row_N)].view(torch.float32)
    f_BF = values_N.new_zeros(layout.rows, d_sae)
    # Added, for entries of value 0 may be at latents that others are at.
    return f_BF.index_put_((row_N, latents_N), values_N, accumulate=True)
