"""Tiny transcoders and crosscoders: two planted sources of the same codes, side by side."""

from __future__ import annotations

from typing import Any

import torch
from tests.fakes.training import TINY, F
from torch import Tensor

from saeserve.core.architectures.contract import Dimensions, EvaluationForm
from saeserve.core.data.preprocess import AnyPreprocessing, Preprocessing, SideBySide
from saeserve.core.export.fold import FoldedTensors
from saeserve.core.ops.draws import generator
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.setup import TrainingSetup

D_X, D_Y = 16, 12
FORMS = ("transcoder", "skip transcoder", "crosscoder")
FIELDS: dict[str, dict[str, Any]] = {
    "transcoder": {"source": "x", "target_source": "y"},
    "skip transcoder": {"source": "x", "target_source": "y", "skip_connection": True},
    "crosscoder": {"sources": ["x", "y"]},
}
DIMS = {
    "transcoder": Dimensions(D_X, D_Y, F),
    "skip transcoder": Dimensions(D_X, D_Y, F),
    "crosscoder": Dimensions(D_X + D_Y, D_X + D_Y, F, (D_X, D_Y)),
}


class PlantedPair:
    """Rows [x | y]: x = codes A + 3 and y = Y_SCALE (codes B + skip x), codes sparse.

    A and B hold unit rows; `skip` 0 leaves a map that is sparse throughout. Draws are keyed by
    position, so batches must be asked for at the same boundaries again.
    """

    rows = 2**40
    d = D_X + D_Y
    Y_SCALE = 20.0

    def __init__(
        self, features: int = 24, active: int = 3, seed: int = 1, skip: float = 0.0
    ) -> None:
        self.A_GX = _unit(features, D_X, seed, "A")
        self.B_GY = _unit(features, D_Y, seed, "B")
        self.M_YX = skip * torch.randn(D_Y, D_X, generator=generator(seed, 0, "M"))
        self._active = active
        self._seed = seed

    def batch(self, position: int, size: int) -> Tensor:
        draws = generator(self._seed, position, "rows")
        score_BG = torch.rand(size, self.A_GX.shape[0], generator=draws)
        chosen_BK = score_BG.topk(self._active, dim=1).indices
        amplitude_BK = torch.rand(size, self._active, generator=draws) + 0.5
        codes_BG = torch.zeros_like(score_BG).scatter_(1, chosen_BK, amplitude_BK)
        x_BX = codes_BG @ self.A_GX
        y_BY = self.Y_SCALE * (codes_BG @ self.B_GY + x_BX @ self.M_YX.T)
        return torch.cat([x_BX + 3.0, y_BY], dim=1)

    def sample(self, n: int, seed: int) -> Tensor:
        return self.batch(self.rows + seed, n)

    def preprocessing(self) -> SideBySide:
        """Each source centred and scaled by constants of its own, from a sample."""
        parts = self.sample(4096, 7).split_with_sizes([D_X, D_Y], dim=1)
        return SideBySide(tuple(_fitted(part_ND) for part_ND in parts))


def form_spec(name: str, form: str, **changes: object) -> TrainSpec:
    """A resolved spec of 50 steps of 64 rows."""
    fields: dict[str, Any] = {
        "dataset": "tiny",
        "model": "tiny",
        name: TINY.get(name, {}),
        "d_sae": F,
        "tokens": 50 * 64,
        "batch_size": 64,
        "optimizer": {"lr": 3e-3},
        "log_every_steps": 1,
        "checkpoint_every_steps": 10,
    }
    spec = TrainSpec.parse(fields | FIELDS[form] | changes, "train")
    return resolve(spec, DIMS[form].d_in, spec.source)


def form_setup(spec: TrainSpec, form: str, source: PlantedPair | None = None) -> TrainingSetup:
    """`spec` on planted pairs."""
    source = source or PlantedPair()
    dims = DIMS[form]
    return TrainingSetup(
        spec,
        Dimensions(dims.d_in, dims.d_out, spec.d_sae, dims.target_widths),
        source,
        source.preprocessing(),
        torch.device("cpu"),
    )


def sides(form: str, preprocessing: SideBySide) -> tuple[AnyPreprocessing, AnyPreprocessing]:
    """The preprocessing of inputs and of targets."""
    if form == "crosscoder":
        return preprocessing, preprocessing
    x, y = preprocessing.parts
    return x, y


def run_form(form: EvaluationForm, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Features and reconstruction of preprocessed rows by the evaluation form's definition."""
    h_BF = x_BD @ form.W_enc_FD.to(x_BD).T + form.b_enc_F.to(x_BD)
    f_BF = _activate(h_BF, h_BF, form.threshold_F, form.k)
    y_BO = f_BF @ form.W_dec_FO.to(x_BD) + form.b_dec_O.to(x_BD)
    return f_BF, y_BO if form.W_skip_OD is None else y_BO + x_BD @ form.W_skip_OD.to(x_BD).T


def run_folded(folded: FoldedTensors, k: int | None, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The same of raw rows by the export's tensors."""
    h_BF = x_BD @ folded.W_enc_DF + folded.b_enc_F
    ranked_BF = h_BF if folded.selection_F is None else h_BF * folded.selection_F
    f_BF = _activate(h_BF, ranked_BF, folded.threshold_F, k)
    y_BO = f_BF @ folded.W_dec_FO + folded.b_dec_O
    return f_BF, y_BO if folded.W_skip_OD is None else y_BO + x_BD @ folded.W_skip_OD.T


def _activate(h_BF: Tensor, ranked_BF: Tensor, threshold_F: Tensor | None, k: int | None) -> Tensor:
    if threshold_F is not None:
        return torch.where(h_BF > threshold_F.to(h_BF), h_BF, 0.0)
    if k is None:
        return h_BF.relu()
    indices_BK = ranked_BF.topk(k, dim=1).indices
    return torch.zeros_like(h_BF).scatter(1, indices_BK, h_BF.gather(1, indices_BK).relu())


def _unit(rows: int, width: int, seed: int, purpose: str) -> Tensor:
    drawn = torch.randn(rows, width, generator=generator(seed, 0, purpose))
    return drawn / drawn.square().sum(dim=1, keepdim=True).sqrt()


def _fitted(x_ND: Tensor) -> Preprocessing:
    mean_D = x_ND.mean(dim=0)
    norm = float((x_ND - mean_D).square().sum(dim=1).sqrt().mean())
    return Preprocessing(mean_D, x_ND.shape[1] ** 0.5 / norm)
