"""Steering: rows moved by edits of their features, the reconstruction error kept.

    x' = x + decode(f') - decode(f) = x + s (f' - f) W_dec

f are the features that the model encodes x into and f' those after the edits; s is 1, and in models
that normalise rows the row's deviation. What the dictionary does not explain of x stays in x', and
b_dec, the row's mean and a skip connection cancel. Only edited features differ, so only their rows
of W_dec are read. A transcoder's difference belongs to the site that it writes.

Shape suffixes: B rows, E edited features, O d_out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops import sparse
from saeserve.core.ops.sparse import SparseRows
from saeserve.core.specs.steering import EditSpec

BLOCK_ENTRIES = 2**22
"""Bound of the activations [B, E] that are looked at together."""


@dataclass(frozen=True)
class Change:
    """What edits make of rows."""

    delta_BO: Tensor
    """float32 [B, d_out]: what is added in raw units; exactly 0 where nothing changed."""
    changed_B: Tensor
    """bool [B]: rows of which some activation changed."""
    rows_by_edit: tuple[int, ...]
    """For each edit, in how many rows it changed the activation that it found."""

    def applied(self, x_BO: Tensor) -> Tensor:
        """x + delta; rows that did not change are those of `x_BO`, bit for bit."""
        moved_BO = x_BO + self.delta_BO.to(x_BO)
        return torch.where(self.changed_B.to(x_BO.device)[:, None], moved_BO, x_BO)


def change_of(
    model: InferenceModel,
    features: SparseRows,
    edits: Sequence[EditSpec],
    chosen_B: Tensor | None = None,
) -> Change:
    """The change of rows whose `features` the model's encode gave; of the `chosen_B` alone (bool
    [B]), or of all. The features that are edited must be below d_sae."""
    step = max(1, BLOCK_ENTRIES // len(edits))
    parts = [
        _change(
            model,
            sparse.slice_rows(features, start, min(start + step, features.rows)),
            edits,
            None if chosen_B is None else chosen_B[start : start + step],
        )
        for start in range(0, max(1, features.rows), step)
    ]
    return Change(
        torch.cat([part.delta_BO for part in parts]),
        torch.cat([part.changed_B for part in parts]),
        tuple(map(sum, zip(*(part.rows_by_edit for part in parts), strict=True))),
    )


def _change(
    model: InferenceModel, features: SparseRows, edits: Sequence[EditSpec], chosen_B: Tensor | None
) -> Change:
    latents = sorted({edit.feature for edit in edits})
    columns = {latent: column for column, latent in enumerate(latents)}
    latents_E = torch.tensor(latents, device=model.device)
    before_BE = activations_of(features.to(model.device), latents_E)
    after_BE = before_BE.clone()
    counts: list[int] = []
    for edit in edits:
        old_B = after_BE[:, columns[edit.feature]]
        new_B = edited(edit, old_B)
        if chosen_B is not None:
            new_B = torch.where(chosen_B.to(model.device), new_B, old_B)
        counts.append(int((new_B != old_B).sum()))
        after_BE[:, columns[edit.feature]] = new_B
    delta_BO = (after_BE - before_BE) @ model.W_dec[latents_E]
    if features.statistics is not None:
        delta_BO = delta_BO * features.statistics.to(model.device).deviation[:, None]
    changed_B = (after_BE != before_BE).any(dim=1)
    return Change(delta_BO, changed_B, tuple(counts))


def activations_of(features: SparseRows, latents_E: Tensor) -> Tensor:
    """Activations [B, E] of these latents (ascending), 0 where a row does not have them."""
    f_BE = features.values.new_zeros(features.rows, len(latents_E))
    place_N = torch.searchsorted(latents_E, features.latents).clamp_max(len(latents_E) - 1)
    found_N = latents_E[place_N] == features.latents
    f_BE[features.row_of_entry[found_N], place_N[found_N]] = features.values[found_N]
    return f_BE


def edited(edit: EditSpec, f_B: Tensor) -> Tensor:
    """The activations of the edit's feature after it."""
    if edit.add is not None:
        return f_B + edit.add
    if edit.scale is not None:
        return f_B * edit.scale
    if edit.clamp is not None:
        return f_B.clamp(edit.clamp.low, edit.clamp.high)
    return torch.full_like(f_B, edit.set or 0.0)
