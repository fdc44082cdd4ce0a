"""OpenAI's sparse_autoencoder: one `.pt` state_dict (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from saeserve.core.formats.model import ReluActivation, RowNorm, TopKActivation
from saeserve.core.peers import releases
from saeserve.core.peers.files import ForeignFiles, JsonObject
from saeserve.core.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.peers.tables import Layout
from saeserve.core.peers.torch_file import TorchFile, read_torch
from saeserve.errors import FormatError

LAYER_NORM = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
_LAYOUT: Layout = {
    "pre_bias": ("d",),
    "latent_bias": ("d_sae",),
    "encoder.weight": ("d_sae", "d"),
    "decoder.weight": ("d", "d_sae"),
}
_STATISTICS = frozenset(
    {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}
)
_POST: dict[str, Literal["relu", "none"]] = {"ReLU": "relu", "Identity": "none"}


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for activations other than ReLU and TopK, and for pickled code.

    The library normalises each row exactly when the activation is TopK. Layer and place stand in
    the release's folder names alone.
    """
    path = files.only(".pt")
    file = read_torch(path, files.admit)
    tensors = file.tensors.take(_LAYOUT, ignore=_STATISTICS)
    values = JsonObject(file.values, file.tensors.file)
    activation = _activation(file, values)
    layer_norm = isinstance(activation, TopKActivation)
    return ForeignModel(
        architecture="topk" if layer_norm else "relu",
        W_enc_DF=tensors["encoder.weight"].T,
        b_enc_F=tensors["latent_bias"],
        W_dec_FO=tensors["decoder.weight"].T,
        b_dec_O=tensors["pre_bias"],
        activation=activation,
        subtracts_b_dec=True,
        source=releases.openai((*files.folders, path.name)) or UNNAMED,
        writer="OpenAI's sparse_autoencoder",
        row_norm=LAYER_NORM if layer_norm else RowNorm(),
        conventions={
            "b_dec": "pre_bias, subtracted from the (normalised) input; folded into b_enc",
            "normalisation": "none besides layer norm",
            "layer_norm": "each row, undone on the output" if layer_norm else "none",
        },
    )


def _activation(file: TorchFile, values: JsonObject) -> TopKActivation | ReluActivation:
    name = values.text("activation", "ReLU")
    if name == "ReLU":
        return ReluActivation()
    if name != "TopK":
        raise values.wrong("activation", "is not imported")
    state: object = file.values.get("activation_state_dict")
    options = JsonObject(
        cast("Mapping[str, object]", state) if isinstance(state, dict) else {},
        f"{file.tensors.file}: activation_state_dict",
    )
    post = _POST.get(options.text("postact_fn", "ReLU"))
    k = options.whole("k")
    if post is None or k > file.tensors.dims["d_sae"]:
        raise FormatError(
            f"{options.where} is {dict(options.values)}, with {file.tensors.dims['d_sae']} latents",
            remedy="import TopK with ReLU or nothing after it, and k up to the number of latents",
        )
    return TopKActivation(k=k, post=post)
