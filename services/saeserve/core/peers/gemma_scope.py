"""Gemma Scope: `params.npz` alone, so what else is known stands in the release's folder names.

JumpReLU without subtracting b_dec (arXiv 2408.05147). Embedding SAEs were trained on rows divided
by sqrt(d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saeserve.core.formats.model import ThresholdActivation
from saeserve.core.peers import releases
from saeserve.core.peers.arrays import open_npz
from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.peers.readings import Unstated
from saeserve.core.peers.releases import GemmaScope
from saeserve.core.peers.tables import Layout, TensorTable
from saeserve.errors import FormatError

PARAMS = "params.npz"
_FACTOR = "scaling_factor"
_LAYOUT: Layout = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "threshold": ("d_sae",),
}
_NO_RELEASE = (
    f"{PARAMS} does not lie in a folder of its release (gemma-scope-2b-pt-res, …-transcoders), and "
    "nothing else says whether it is a transcoder"
)


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for other tensors and for a scaling factor."""
    tensors = _tensors(files)
    said = releases.gemma_scope(files.folders)
    scale = 1 / math.sqrt(tensors["W_enc"].shape[0]) if said.embedding else 1.0
    differ = tensors["W_enc"].shape[0] != tensors["W_dec"].shape[1]
    norm = "rows divided by sqrt(d): an embedding SAE; folded" if said.embedding else "none"
    return ForeignModel(
        architecture="jumprelu",
        W_enc_DF=tensors["W_enc"],
        b_enc_F=tensors["b_enc"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        threshold_F=tensors["threshold"],
        activation=ThresholdActivation(),
        in_scale=scale,
        out_scale=scale,
        source=said.source or UNNAMED,
        target=said.target or ("target" if differ else ""),
        unstated=_unstated(said, differ=differ),
        writer="Gemma Scope",
        conventions={"b_dec": "not subtracted", "normalisation": norm, "layer_norm": "none"},
        details={"release": said.release} if said.release else {},
    )


def _tensors(files: ForeignFiles) -> dict[str, Tensor]:
    """Some files of the release spell W_enc and W_dec in lower case."""
    with open_npz(files.file(PARAMS), files.admit) as table:
        lower = "w_enc" in table.headers
        layout = {_spelt(name, lower=lower): axes for name, axes in _LAYOUT.items()}
        taken = table.take({**layout, **_factor(table)})
    if not bool((taken.get(_FACTOR, torch.ones(1)) == 1).all()):
        raise FormatError(
            f"{PARAMS}: {_FACTOR} is not 1, and no release says what it multiplies",
            remedy="import the release's own files",
        )
    return {name: taken[_spelt(name, lower=lower)] for name in _LAYOUT}


def _factor(table: TensorTable) -> Layout:
    return {_FACTOR: ("d_sae",)} if _FACTOR in table.headers else {}


def _spelt(name: str, *, lower: bool) -> str:
    return name.replace("W_", "w_") if lower else name


def _unstated(said: GemmaScope, *, differ: bool) -> Unstated | None:
    stated = said.release or said.embedding or differ
    return None if stated else Unstated(_NO_RELEASE, refused=True)
