"""The canonical exported model: raw activations in, sparse features out, and back.

Formulas: DESIGN section 3 ("Three forms"), repeated in `fold`. Shape suffixes: B rows, D d_in,
F d_sae, O d_out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.errors import DataMismatchError
from saeserve.core.ops import sparse
from saeserve.core.ops.selection import Selected, top_k
from saeserve.core.ops.sparse import SparseRows
from saeserve.core.specs.model import ModelConfig, TopKActivation

__all__ = ["InferenceModel", "SparseRows"]


@dataclass(frozen=True)
class InferenceModel:
    """An exported SAE; takes raw activations. Decoder rows have unit norm, or are zero when dead.

    Shapes, all float32: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out],
    threshold [d_sae] for threshold models (infinite for dead latents), centre [d_in] (the mean
    folded into b_enc), frequency and maximum [d_sae] (share of held-out rows in which a latent
    fires, and its largest magnitude there; zero before `with_statistics`).
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

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.W_enc.device

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, as stored; without `threshold` where there is none."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "config")
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
        blocks = [self._activate(h_BF) for h_BF in self._pre_activations(x)]
        return sparse.concat(blocks)

    def encode_dense(self, x: Tensor) -> Tensor:
        """Features [rows, d_sae] of raw rows [rows, d_in]; for tests and small evaluations."""
        return sparse.to_dense(self.encode(x))

    def decode(self, features: SparseRows) -> Tensor:
        """Reconstructions [rows, d_out] in raw activation space.

        Raises DataMismatchError for features of another width.
        """
        if features.d_sae != self.config.d_sae:
            raise DataMismatchError(
                f"features have d_sae = {features.d_sae}, the model {self.config.d_sae}",
                remedy="decode with the model that encoded them",
            )
        return sparse.decode(features.to(self.device), self.W_dec) + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)): [rows, d_in] to [rows, d_out]."""
        return self.decode(self.encode(x))

    def _pre_activations(self, x: Tensor) -> Iterator[Tensor]:
        """x W_enc + b_enc in blocks of rows; one empty block for no rows."""
        if x.ndim != 2 or x.shape[1] != self.config.d_in:
            raise DataMismatchError(
                f"rows of shape {list(x.shape)} do not fit d_in = {self.config.d_in}",
                remedy="send activations of the site that the model was trained on",
            )
        size = sparse.rows_per_block(self.config.d_sae)
        for start in range(0, max(1, x.shape[0]), size):
            x_BD = x[start : start + size].to(self.device, torch.float32)
            yield torch.addmm(self.b_enc, x_BD, self.W_enc)

    def _activate(self, h_BF: Tensor) -> SparseRows:
        activation = self.config.activation
        if activation.kind == "topk":
            return sparse.from_selected(_select(h_BF, activation), self.config.d_sae)
        if self.threshold is not None:
            return sparse.from_mask(h_BF, h_BF > self.threshold)
        return sparse.from_mask(h_BF, h_BF > 0)


def _select(h_BF: Tensor, activation: TopKActivation) -> Selected:
    if activation.post == "abs":
        indices_BK = top_k(h_BF.abs(), activation.k).indices_BK
        return Selected(h_BF.gather(1, indices_BK), indices_BK)
    selected = top_k(h_BF, activation.k)
    if activation.post == "relu":
        return Selected(selected.values_BK.relu(), selected.indices_BK)
    return selected
