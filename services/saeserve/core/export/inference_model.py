"""The canonical exported model: raw activations in, sparse features out, and back.

Formulas: docs/DESIGN.md, "Three forms", repeated in `fold`. Shape suffixes: B rows, D d_in,
F d_sae, O d_out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.formats.model import ModelConfig
from saeserve.core.ops import sparse
from saeserve.core.ops.selection import Selected, top_k
from saeserve.core.ops.sparse import RowStatistics, SparseRows
from saeserve.errors import DataMismatchError

__all__ = ["InferenceModel", "SparseRows"]


@dataclass(frozen=True)
class InferenceModel:
    """An exported SAE; takes raw activations. Decoder rows have unit norm, or are zero when dead.

    Shapes, all float32: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out],
    threshold [d_sae] for threshold models (infinite for dead latents), centre [d_in] (the mean
    folded into b_enc), frequency and maximum [d_sae] (share of held-out rows in which a latent
    fires, and its largest magnitude there; zero before `with_statistics`); W_skip [d_out, d_in]
    for models with a skip connection; selection [d_sae] for `weighted` top-k.
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
    W_skip: Tensor | None = None
    selection: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.W_enc.device

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, as stored; without those that there are none of."""
        # Those of a subclass are not stored.
        fields = (one.name for one in dataclasses.fields(InferenceModel) if one.name != "config")
        values: dict[str, Tensor | None] = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def size_bytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device) -> InferenceModel:
        """The same model on `device`."""
        return dataclasses.replace(
            self, **{name: value.to(device) for name, value in self.tensors.items()}
        )

    def encode(self, x: Tensor) -> SparseRows:
        """Sparse features of raw rows [rows, d_in]; exact in float32.

        Works in row blocks, so that the dense pre-activations stay within ops.sparse.BLOCK_BYTES.
        Rows must be finite. Raises DataMismatchError for rows of another width.
        """
        self._check_rows(x)
        statistics = self._statistics(x)
        blocks = [self._activate(h_BF) for h_BF in self._pre_activations(x, statistics)]
        return dataclasses.replace(sparse.concat(blocks), statistics=statistics)

    def encode_dense(self, x: Tensor) -> Tensor:
        """Features [rows, d_sae] of raw rows [rows, d_in]; for tests and small evaluations."""
        return sparse.to_dense(self.encode(x))

    def decode(self, features: SparseRows, x: Tensor | None = None) -> Tensor:
        """Reconstructions [rows, d_out] in raw activation space.

        A skip connection also maps the raw input `x` [rows, d_in] to the output, so features
        alone do not make a reconstruction there. A model that normalises rows needs the statistics
        that its encode leaves in the features. Raises DataMismatchError for features of another
        width, and where `x` or statistics are needed and missing.
        """
        if features.d_sae != self.config.d_sae:
            raise DataMismatchError(
                f"features have d_sae = {features.d_sae}, the model {self.config.d_sae}",
                remedy="decode with the model that encoded them",
            )
        decoded_BO = sparse.decode(features.to(self.device), self.W_dec) + self.b_dec
        if self.config.row_norm.kind != "none":
            return self._denormalised(decoded_BO, features.statistics)
        return decoded_BO if self.W_skip is None else decoded_BO + self._skipped(x, self.W_skip)

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)), and the skip connection if any: [rows, d_in] to [rows, d_out]."""
        return self.decode(self.encode(x), x)

    def _skipped(self, x: Tensor | None, W_skip_OD: Tensor) -> Tensor:
        if x is None:
            raise DataMismatchError(
                "the model has a skip connection, so features alone do not tell its output",
                remedy="give the input as well: reconstruct instead of decode",
            )
        return x.to(self.device, W_skip_OD.dtype) @ W_skip_OD.T

    def _check_rows(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.config.d_in:
            raise DataMismatchError(
                f"rows of shape {list(x.shape)} do not fit d_in = {self.config.d_in}",
                remedy="send activations of the site that the model was trained on",
            )

    def _statistics(self, x: Tensor) -> RowStatistics | None:
        """Mean and scale of each row, where the model normalises rows."""
        norm = self.config.row_norm
        if norm.kind == "none":
            return None
        x_BD = x.to(self.device, torch.float32)
        if not len(x_BD):
            # torch would warn of it.
            return RowStatistics(x_BD.new_empty(0), x_BD.new_empty(0))
        deviation_B, mean_B = torch.std_mean(x_BD, dim=1, correction=norm.ddof)
        return RowStatistics(mean_B, deviation_B)

    def _denormalised(self, y_BO: Tensor, statistics: RowStatistics | None) -> Tensor:
        if statistics is None:
            if not y_BO.shape[0]:
                return y_BO
            raise DataMismatchError(
                "the model normalises each row, and the features come without the rows' statistics",
                remedy="decode what encode gave, statistics included, or reconstruct",
            )
        known = statistics.to(self.device)
        return y_BO * known.deviation[:, None] + known.mean[:, None]

    def _pre_activations(self, x: Tensor, statistics: RowStatistics | None) -> Iterator[Tensor]:
        """x W_enc + b_enc in blocks of rows; one empty block for no rows."""
        size = sparse.rows_per_block(self.config.d_sae)
        for start in range(0, max(1, x.shape[0]), size):
            rows = slice(start, start + size)
            x_BD = x[rows].to(self.device, torch.float32)
            if statistics is not None:
                spread_B = statistics.deviation[rows] + self.config.row_norm.eps
                x_BD = (x_BD - statistics.mean[rows, None]) / spread_B[:, None]
            yield torch.addmm(self.b_enc, x_BD, self.W_enc)

    def _activate(self, h_BF: Tensor) -> SparseRows:
        if (kept := self.config.selecting) is not None:
            magnitude = kept.post == "abs"
            selected = _select(h_BF, kept.k, self.selection, by_magnitude=magnitude)
            if not kept.keeps_negative:
                selected = Selected(selected.values_BK.relu(), selected.indices_BK)
            return sparse.from_selected(selected, self.config.d_sae)
        if self.threshold is not None:
            return sparse.from_mask(h_BF, h_BF > self.threshold)
        return sparse.from_mask(h_BF, h_BF > 0)


def _select(h_BF: Tensor, k: int, selection_F: Tensor | None, *, by_magnitude: bool) -> Selected:
    ranked_BF = h_BF if selection_F is None else h_BF * selection_F
    if by_magnitude:
        ranked_BF = ranked_BF.abs()
    selected = top_k(ranked_BF, k)
    if ranked_BF is not h_BF:
        selected = Selected(h_BF.gather(1, selected.indices_BK), selected.indices_BK)
    return selected
