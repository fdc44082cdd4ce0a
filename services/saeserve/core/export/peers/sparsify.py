"""EleutherAI sparsify: `cfg.json` and `sae.safetensors` (`SparseCoder.load_from_disk`)."""

from __future__ import annotations

from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.peers import payload
from saeserve.core.export.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.export.peers.foreign import ForeignModel
from saeserve.core.export.peers.payload import Payload, cannot
from saeserve.core.export.peers.safetensors_file import open_safetensors
from saeserve.core.export.peers.tables import Layout
from saeserve.core.specs.model import TopKActivation

FORMAT = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_LAYOUT: Layout = {
    "encoder.weight": ("num_latents", "d_in"),
    "encoder.bias": ("num_latents",),
    "W_dec": ("num_latents", "d_in"),
    "b_dec": ("d_in",),
}


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for groupmax."""
    config = read_json(files.file(CONFIG))
    if config.text("activation", "topk") != "topk":
        raise config.wrong("activation", "is not imported")
    transcodes = config.flag("transcode", default=False)
    tensors = _tensors(files, config)
    return ForeignModel(
        architecture="topk",
        W_enc_DF=tensors["encoder.weight"].T,
        b_enc_F=tensors["encoder.bias"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        activation=TopKActivation(k=_k(config)),
        subtracts_b_dec=not transcodes,
        W_skip_OD=tensors.get("W_skip"),
        target="target" if transcodes else "",
        conventions={
            "b_dec": "not subtracted: a transcoder"
            if transcodes
            else "subtracted from the input; folded into b_enc",
            "normalisation": "none",
            "layer_norm": "none",
        },
        details={"foreign_config": dict(config.values)},
    )


def write(model: InferenceModel) -> Payload:
    """Raises FormatError for anything but top-k with ReLU of one width."""
    payload.check_single_source(model, FORMAT)
    k = payload.relu_top_k(model, FORMAT)
    config = model.config
    if config.d_in != config.d_out:
        raise cannot(FORMAT, f"d_out = {config.d_out} is not d_in = {config.d_in}")
    if config.row_norm.kind != "none":
        raise cannot(FORMAT, f"row_norm.kind is {config.row_norm.kind!r}")
    transcodes = config.transcodes
    model = payload.unweighted(model)
    tensors = {
        "encoder.weight": model.W_enc.T,
        "encoder.bias": model.b_enc if transcodes else payload.bias_before_subtraction(model),
        "W_dec": model.W_dec,
        "b_dec": model.b_dec,
    }
    if model.W_skip is not None:
        tensors["W_skip"] = model.W_skip
    return Payload({CONFIG: _config(model, k, transcodes)}, {WEIGHTS: tensors})


def _latents(config: JsonObject) -> int:
    """`num_latents`, or, where it is 0, a multiple of the width."""
    if config.values.get("num_latents"):
        return config.whole("num_latents")
    return config.whole("d_in") * config.whole("expansion_factor")


def _k(config: JsonObject) -> int:
    k = config.whole("k")
    if k > _latents(config):
        raise config.wrong("k", f"exceeds {_latents(config)} latents")
    return k


def _tensors(files: ForeignFiles, config: JsonObject) -> dict[str, Tensor]:
    dims = {"d_in": config.whole("d_in"), "num_latents": _latents(config)}
    skip = config.flag("skip_connection", default=False)
    layout = {**_LAYOUT, "W_skip": ("d_in", "d_in")} if skip else _LAYOUT
    with open_safetensors(files.file(WEIGHTS), files.admit) as table:
        taken = table.take(layout, dims)
        return {name: value.clone() for name, value in taken.items()}


def _config(model: InferenceModel, k: int, transcodes: bool) -> dict[str, object]:
    config = model.config
    return {
        "activation": "topk",
        "d_in": config.d_in,
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "k": k,
        "multi_topk": False,
        "normalize_decoder": True,
        "num_latents": config.d_sae,
        "skip_connection": config.skip_connection,
        "transcode": transcodes,
    }
