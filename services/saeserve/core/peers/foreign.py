"""From a foreign model, in its own terms, to ours: biases, scales and norms folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.export.fold import DEAD_NORM, FoldedTensors, fold_tensors
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    Lineage,
    ModelConfig,
    ReluActivation,
    RowNorm,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)
from saeserve.core.peers.readings import Readings, Unstated
from saeserve.core.specs.run_warning import RunWarning
from saeserve.errors import FormatError

EQUAL_NORMS = 1e-5
"""Decoder norms that spread by less select like equal ones, up to the rounding of float32."""
UNNAMED = "activations"
_NO_ROW_NORM = RowNorm()


@dataclass(frozen=True)
class ForeignModel:
    """f = act(s x W_enc + b_enc), y = (f W_dec + b_dec) / s_y, as its library computes it.

    `threshold_F` is compared with the pre-activation of the foreign library. `conventions` say
    in words how the file was read; they stand in the import's lineage.
    """

    architecture: str
    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FO: Tensor
    b_dec_O: Tensor
    activation: TopKActivation | ThresholdActivation | ReluActivation
    conventions: Mapping[str, str]
    threshold_F: Tensor | None = None
    subtracts_b_dec: bool = False
    """The library subtracts b_dec from the (scaled) input."""
    selects_by_norm: bool = False
    """Pre-activations are multiplied by decoder norms, and so are the library's features."""
    in_scale: float = 1.0
    out_scale: float = 1.0
    row_norm: RowNorm = _NO_ROW_NORM
    W_skip_OD: Tensor | None = None
    """Skip connection, from the raw input to the output."""
    source: str = UNNAMED
    target: str = ""
    """The output's source when that is another than the input's."""
    unstated: Unstated | None = None
    """Set where the files do not say whether this is a transcoder; `target` is empty then."""
    writer: str = ""
    """The library that wrote the files and its release, as far as they tell."""
    readings: tuple[Readings, ...] = ()
    """Set where releases or libraries read such files differently."""
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else of the foreign config belongs into the lineage."""

    @property
    def warnings(self) -> tuple[RunWarning, ...]:
        """What whoever imports the model must know."""
        open_kind = () if self.unstated is None else (self.unstated.warning(),)
        return (*open_kind, *(reading.warning() for reading in self.readings))


@dataclass(frozen=True)
class Imported:
    """Our model, and what one unit of each foreign feature is in ours, float64 [F]."""

    model: InferenceModel
    feature_scale_F: Tensor


def canonical(foreign: ForeignModel, format: str) -> Imported:
    """Our form of the model; computed in float64, stored in float32.

    Raises FormatError for what our form cannot hold exactly.
    """
    norm_F = foreign.W_dec_FO.double().square().sum(dim=1).sqrt()
    selection_F = _selection(foreign, norm_F)
    folded = _fold(foreign)
    model = InferenceModel(
        config=_config(foreign, folded, format, weighted=selection_F is not None),
        W_enc=folded.W_enc_DF,
        b_enc=folded.b_enc_F,
        W_dec=folded.W_dec_FO,
        b_dec=folded.b_dec_O,
        threshold=folded.threshold_F,
        centre=torch.zeros(foreign.W_enc_DF.shape[0]),
        frequency=torch.zeros_like(folded.b_enc_F),
        maximum=torch.zeros_like(folded.b_enc_F),
        W_skip=folded.W_skip_OD,
        selection=selection_F,
    )
    _check_range(model)
    unit_F = torch.ones_like(norm_F) if foreign.selects_by_norm else norm_F
    return Imported(model, unit_F.masked_fill(folded.dead_F, 0.0) / foreign.out_scale)


def _fold(foreign: ForeignModel) -> FoldedTensors:
    W_enc_FD = foreign.W_enc_DF.T
    b_enc_F = foreign.b_enc_F.double()
    if foreign.subtracts_b_dec:
        b_enc_F = b_enc_F - W_enc_FD.double() @ foreign.b_dec_O.double()
    threshold_F = foreign.threshold_F
    form = EvaluationForm(
        W_enc_FD=W_enc_FD,
        b_enc_F=b_enc_F,
        W_dec_FO=foreign.W_dec_FO,
        b_dec_O=foreign.b_dec_O,
        # ReLU precedes the comparison in every library, so a negative threshold acts as 0.
        threshold_F=None if threshold_F is None else threshold_F.double().clamp_min(0.0),
        W_skip_OD=foreign.W_skip_OD,
    )
    d_in, d_out = W_enc_FD.shape[1], foreign.W_dec_FO.shape[1]
    return fold_tensors(
        form,
        Preprocessing(mean_D=torch.zeros(d_in), scale=foreign.in_scale),
        Preprocessing(mean_D=torch.zeros(d_out), scale=foreign.out_scale),
    )


def _selection(foreign: ForeignModel, norm_F: Tensor) -> Tensor | None:
    """What our features are multiplied by to choose as the library does; None for 1.

    The library's top-k may not count decoder norms, which our features do.
    """
    if not isinstance(foreign.activation, TopKActivation) or foreign.selects_by_norm:
        return None
    least, most = float(norm_F.min()), float(norm_F.max())
    if least < DEAD_NORM:
        raise FormatError(
            f"latent {int(norm_F.argmin())} has no decoder direction, but takes part in the top k",
            remedy="remove such latents where the model was made",
        )
    return None if most <= (1 + EQUAL_NORMS) * least else (least / norm_F).float()


def _config(
    foreign: ForeignModel, folded: FoldedTensors, format: str, *, weighted: bool
) -> ModelConfig:
    d_in, d_sae = folded.W_enc_DF.shape
    d_out = folded.W_dec_FO.shape[1]
    activation = foreign.activation
    if isinstance(activation, TopKActivation):
        activation = activation.model_copy(update={"weighted": weighted})
    return ModelConfig(
        architecture=foreign.architecture,
        d_in=d_in,
        d_out=d_out,
        d_sae=d_sae,
        inputs=(TensorSource(name=foreign.source, offset=0, d=d_in),),
        outputs=(TensorSource(name=foreign.target or foreign.source, offset=0, d=d_out),),
        activation=activation,
        row_norm=foreign.row_norm,
        skip_connection=folded.W_skip_OD is not None,
        dead_latents=int(folded.dead_F.sum()),
        lineage=Lineage(
            spec=_history(foreign, format), source=foreign.source, warnings=foreign.warnings
        ),
    )


def _history(foreign: ForeignModel, format: str) -> dict[str, object]:
    conventions = dict(foreign.conventions)
    if isinstance(foreign.activation, TopKActivation):
        counted = "times decoder norms" if foreign.selects_by_norm else "as they are"
        conventions["selection"] = f"the k largest pre-activations, {counted}"
    history: dict[str, object] = {"imported_from": format, "conventions": conventions}
    if foreign.writer:
        history["writer"] = foreign.writer
    if foreign.readings:
        history["readings"] = [reading.to_json() for reading in foreign.readings]
    return {**history, **foreign.details}


def _check_range(model: InferenceModel) -> None:
    """A fold of finite numbers may still leave float32."""
    for name, value in model.tensors.items():
        if name != "threshold" and not math.isfinite(float(value.abs().max())):
            raise FormatError(
                f"folding scales and norms takes tensor {name} out of float32",
                remedy="look at the scales in the model's config",
            )
