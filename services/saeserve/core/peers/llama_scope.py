"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors` (arXiv 2410.20526)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saeserve.core.formats.model import ThresholdActivation
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.peers.hooks import source_of
from saeserve.core.peers.readings import Readings
from saeserve.core.peers.safetensors_file import open_safetensors
from saeserve.core.peers.tables import Layout

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_BIAS = "decoder.bias"
_LAYOUT: Layout = {
    "encoder.weight": ("d_sae", "d_model"),
    "encoder.bias": ("d_sae",),
    "decoder.weight": ("d_model", "d_sae"),
    _BIAS: ("d_model",),
}


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for activations and norms other than the release's.

    Weights take rows scaled to a mean norm of sqrt(d). The one threshold is compared with
    features of raw rows (by decoder norm where sparsity_include_decoder_norm says so), as
    the library does after it has folded both; SAELens agrees where decoder norms are 1.
    """
    config = read_json(files.file(CONFIG))
    _check(config)
    dims = {"d_model": config.whole("d_model"), "d_sae": config.whole("d_sae")}
    with open_safetensors(files.file(WEIGHTS), files.admit) as table:
        biased = config.flag("use_decoder_bias", default=True)
        layout = _LAYOUT if biased else {k: v for k, v in _LAYOUT.items() if k != _BIAS}
        tensors = {name: t.clone() for name, t in table.take(layout, dims).items()}
    b_dec_O = tensors.get(_BIAS, torch.zeros(dims["d_model"]))
    scale_in, scale_out = _scale(config, "in"), _scale(config, "out")
    by_norm = config.flag("sparsity_include_decoder_norm", default=True)
    W_dec_FO = tensors["decoder.weight"].T
    theta_F = _threshold(W_dec_FO, config.number("jump_relu_threshold"), by_norm)
    source = source_of(config.text("hook_point_in", "")) or UNNAMED
    target = source_of(config.text("hook_point_out", "")) or source
    subtracts = config.flag("apply_decoder_bias_to_pre_encoder", default=False)
    return ForeignModel(
        architecture="jumprelu",
        W_enc_DF=tensors["encoder.weight"].T,
        b_enc_F=tensors["encoder.bias"],
        W_dec_FO=W_dec_FO,
        b_dec_O=b_dec_O,
        threshold_F=theta_F * (scale_out if by_norm else scale_in),
        activation=ThresholdActivation(),
        subtracts_b_dec=subtracts,
        in_scale=scale_in,
        out_scale=scale_out,
        source=source,
        target="" if target == source else target,
        conventions={
            "b_dec": "subtracted from the input; folded into b_enc"
            if subtracts
            else "not subtracted",
            "normalisation": f"rows times {scale_in:.6g} (outputs {scale_out:.6g}); folded",
            "layer_norm": "none",
            "threshold": "on features of raw rows" + (" by decoder norm" if by_norm else ""),
        },
        writer="Llama Scope",
        readings=_readings(config),
        details={"foreign_config": dict(config.values)},
    )


def _readings(config: JsonObject) -> tuple[Readings, ...]:
    """SAELens leaves out what differs from its own form."""
    norms = config.part("dataset_average_activation_norm")
    if norms.number("in") == norms.number("out"):
        return ()
    return (
        Readings(
            "mean norms of inputs and outputs differ",
            "the release's own library reads it: outputs are scaled by their own norm",
            "SAELens's: outputs are scaled by the inputs' norm",
        ),
    )


def _check(config: JsonObject) -> None:
    if config.text("act_fn", "jumprelu").lower() != "jumprelu":
        raise config.wrong("act_fn", "is not imported")
    if config.text("norm_activation", "dataset-wise") != "dataset-wise":
        raise config.wrong("norm_activation", "is not imported")
    if config.flag("use_glu_encoder", default=False):
        raise config.wrong("use_glu_encoder", "is not imported")


def _scale(config: JsonObject, side: str) -> float:
    norms = config.part("dataset_average_activation_norm")
    value = norms.number(side)
    if value <= 0:
        raise norms.wrong(side, "is not positive")
    return math.sqrt(config.whole("d_model")) / value


def _threshold(W_dec_FO: Tensor, theta: float, by_norm: bool) -> Tensor:
    """Thresholds [F] on the pre-activation, up to the scale of outputs or inputs."""
    if not by_norm:
        return torch.full((W_dec_FO.shape[0],), theta, dtype=torch.float64)
    norm_F = W_dec_FO.double().square().sum(dim=1).sqrt()
    return theta / norm_F
