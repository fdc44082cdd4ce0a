"""Encoding in Triton's kernels: exact as in float32, without the host waiting in between.

    h = low(x) low(W)^T + low(b) in float16, bounded errors;  then `gpu.choice` for models of k
    entries a row, `gpu.thresholds` for others (0 where the model has none)

Both compute in float32 whatever may be a feature, so the rounding of h decides nothing. Where the
features of a row are as many as a 32nd of the latents, gathering their weights would cost more than
the product in float32 does, and that one is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from saeserve.core.export.device_model import (
    DeviceEncoder,
    DeviceModel,
    Layout,
    PackedFeatures,
)
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import RowNorm
from saeserve.core.gpu import choice, rows, thresholds
from saeserve.core.gpu.shadows import Shadow
from saeserve.core.ops.sparse import RowStatistics, SparseRows

BLOCK_BYTES = 2**29
"""Bound of the pre-activations [rows, d_sae] of a block."""
WIDEST = 8192
"""Columns of rows that a program can hold in registers."""
DENSE_SHARE = 1 / 32
"""Share of latents in a row's features from which on the product is in float32."""
SPARE = 64
"""Entries a row for which there is room in addition to twice those that are expected."""


def with_encoder(model: InferenceModel) -> InferenceModel:
    """The model with an encoder, and W_enc laid out as it needs it; as it is where kernels do not
    compute its form."""
    if not _possible(model):
        return model
    W_FD = model.W_enc.T.contiguous()
    low = None
    if _expected(model) <= DENSE_SHARE * model.config.d_sae:
        low = Low(rows.shadow_of(W_FD), model.b_enc.to(rows.LOW))
    encoder = KernelEncoder(
        W_FD=W_FD,
        b_F=model.b_enc,
        k=model.config.k,
        threshold_F=_thresholds(model),
        row_norm=model.config.row_norm,
        low=low,
        least_room=2 * _expected(model) + SPARE,
    )
    tensors = model.tensors | {"W_enc": W_FD.T}
    threshold = tensors.pop("threshold", None)
    return DeviceModel(config=model.config, threshold=threshold, encoder=encoder, **tensors)


@dataclass(frozen=True)
class Low:
    """The encoder's weights in low precision."""

    W: Shadow
    b_F: Tensor

    @property
    def size_bytes(self) -> int:
        """Memory of the copies and of the norms."""
        tensors = (self.W.low_FD, self.W.norms_4F, self.b_F)
        return sum(tensor.nbytes for tensor in tensors)


@dataclass
class KernelEncoder(DeviceEncoder):
    """What encoding needs of a model, on its device."""

    W_FD: Tensor
    b_F: Tensor
    k: int | None
    threshold_F: Tensor
    row_norm: RowNorm
    low: Low | None
    """None where the product is in float32."""
    least_room: float
    _room: float = field(default=0.0)

    def __post_init__(self) -> None:
        """Begin with the least."""
        self._room = self.least_room

    @property
    @override
    def room(self) -> float:
        """Doubled from the least as often as was needed, so that few sizes are recorded."""
        return self._room

    @property
    @override
    def size_bytes(self) -> int:
        """Memory of the low-precision copies: all else is the model's."""
        return 0 if self.low is None else self.low.size_bytes

    @override
    def note(self, needed: float) -> None:
        """Rows of one request do not settle for long how much memory all others get."""
        room = self.least_room
        while room < 2 * needed:
            room *= 2
        self._room = room

    @override
    def encode(self, x_BD: Tensor) -> PackedFeatures:
        """Blocks bound the memory of pre-activations."""
        parts, layouts = list[Tensor](), list[Layout]()
        for block_BD in _blocks(x_BD, self.W_FD.shape[0]):
            statistics_2B, normal_BD = self._normalised(block_BD)
            counts_B, latents_N, values_N = self._features(normal_BD)
            finite = torch.isfinite(values_N).all() & torch.isfinite(statistics_2B).all()
            parts += [finite.to(torch.int32).view(1), counts_B, _bits(statistics_2B)]
            parts += [latents_N.reshape(-1), _bits(values_N)]
            normalises = statistics_2B.numel() > 0
            layouts.append(Layout(len(block_BD), values_N.numel(), self.k, normalises))
        return PackedFeatures(torch.cat(parts), tuple(layouts))

    @override
    def padded(self, x_BD: Tensor) -> SparseRows | None:
        """Each row has k, where those are few enough for the product in low precision."""
        if self.k is None or self.low is None:
            return None
        statistics_2B, normal_BD = self._normalised(x_BD)
        blocks = [self._chosen(each_BD, self.k) for each_BD in _blocks(normal_BD, len(self.b_F))]
        latents_N = torch.cat([chosen.latents_BK.reshape(-1) for chosen in blocks]).long()
        values_N = torch.cat([chosen.values_BK.reshape(-1) for chosen in blocks])
        offsets = torch.arange(len(x_BD) + 1, device=x_BD.device) * self.k
        known = RowStatistics(*statistics_2B) if statistics_2B.numel() else None
        return SparseRows(offsets, latents_N, values_N, len(self.b_F), known)

    def _normalised(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each row, empty where the model does not normalise them, and the
        rows that it multiplies."""
        norm = self.row_norm
        if norm.kind == "none":
            return x_BD.new_empty(0), x_BD
        deviation_B, mean_B = torch.std_mean(x_BD, dim=1, correction=norm.ddof)
        normal_BD = (x_BD - mean_B[:, None]) / (deviation_B + norm.eps)[:, None]
        return torch.stack([mean_B, deviation_B]), normal_BD

    def _features(self, x_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, int32 [B], latents and values of entries."""
        if self.k is not None:
            chosen = self._chosen(x_BD, self.k)
            counts_B = (chosen.values_BK != 0).sum(1, dtype=torch.int32)
            return counts_B, chosen.latents_BK, chosen.values_BK
        room = min(math.ceil(self.room * len(x_BD)), len(x_BD) * self.W_FD.shape[0])
        listed = self._listed(x_BD, room)
        return listed.offsets.diff().to(torch.int32), listed.latents_N, listed.values_N

    def _chosen(self, x_BD: Tensor, k: int) -> choice.Chosen:
        if self.low is None:
            return choice.top(self._product(x_BD), k)
        h_BF, errors_B = _low_product(x_BD, self.b_F, self.low)
        return choice.top_of_low(h_BF, errors_B, k, x_BD, (self.W_FD, self.b_F))

    def _listed(self, x_BD: Tensor, room: int) -> thresholds.Listed:
        if self.low is None:
            return thresholds.above(self._product(x_BD), self.threshold_F, room)
        h_BF, errors_B = _low_product(x_BD, self.b_F, self.low)
        weights = (self.W_FD, self.b_F)
        return thresholds.above_of_low(h_BF, errors_B, self.threshold_F, room, x_BD, weights)

    def _product(self, x_BD: Tensor) -> Tensor:
        return torch.addmm(self.b_F, x_BD, self.W_FD.T)


def _low_product(x_BD: Tensor, b_F: Tensor, low: Low) -> tuple[Tensor, Tensor]:
    x = rows.rounded(x_BD)
    h_BF = torch.addmm(low.b_F, x.low_FD, low.W.low_FD.T)
    return h_BF, rows.largest_errors(x, low.W, b_F)


def _blocks(x_BD: Tensor, latents: int) -> Iterator[Tensor]:
    """Rows of a block are as many as their pre-activations in float32 allow."""
    size = max(1, BLOCK_BYTES // (4 * latents))
    for start in range(0, len(x_BD), size):
        yield x_BD[start : start + size]


def _bits(values: Tensor) -> Tensor:
    return values.reshape(-1).view(torch.int32)


def _possible(model: InferenceModel) -> bool:
    """Whether kernels compute the model's form: k largest by their value, or thresholds."""
    if model.config.d_in > WIDEST:
        return False
    kept = model.config.selecting
    if kept is None:
        return True
    return (
        not kept.keeps_negative
        and not kept.weighted
        and choice.possible(kept.k, model.config.d_sae)
    )


def _expected(model: InferenceModel) -> float:
    """Entries of a row. Models that were never judged do not say; without thresholds it is many."""
    if model.config.k is not None:
        return float(model.config.k)
    known = float(model.frequency.sum())
    if known == 0.0 and model.threshold is None:
        return float(model.config.d_sae)
    return known


def _thresholds(model: InferenceModel) -> Tensor:
    return torch.zeros_like(model.b_enc) if model.threshold is None else model.threshold
