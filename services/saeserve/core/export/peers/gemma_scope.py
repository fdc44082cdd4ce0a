"""Gemma Scope (`params.npz`) and Gemma Scope 2 (`config.json` and `params.safetensors`).

Both are JumpReLU without subtracting b_dec (arXiv 2408.05147). Embedding SAEs of the first were
trained on rows divided by sqrt(d); they are known by the folder's name alone.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from torch import Tensor

from saeserve.core.errors import FormatError
from saeserve.core.export.peers.arrays import open_npz
from saeserve.core.export.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.export.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.export.peers.safetensors_file import open_safetensors
from saeserve.core.export.peers.tables import Layout
from saeserve.core.specs.model import ThresholdActivation

PARAMS_NPZ, CONFIG, PARAMS = "params.npz", "config.json", "params.safetensors"

_FIRST: Layout = {
    "W_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
    "threshold": ("d_sae",),
}
_SECOND: Layout = {
    "w_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "w_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "threshold": ("d_sae",),
}
_AFFINE = "affine_skip_connection"
_LOWER = {"W_enc": "w_enc", "W_dec": "w_dec"}
_LAYER = re.compile(r"(?:layer_|layers\.)(\d+)")


def read(files: ForeignFiles) -> ForeignModel:
    """The first release. Raises FormatError for other tensors and for a scaling factor."""
    path = files.file(PARAMS_NPZ)
    with open_npz(path, files.admit) as table:
        lower = _LOWER["W_enc"] in table.headers
        layout = {_LOWER.get(name, name) if lower else name: a for name, a in _FIRST.items()}
        taken = table.take(layout)
    tensors = {("W" + name[1:] if name.startswith("w_") else name): t for name, t in taken.items()}
    embedding = "embedding" in path.as_posix()
    scale = 1 / math.sqrt(tensors["W_enc"].shape[0]) if embedding else 1.0
    norm = "rows divided by sqrt(d): an embedding SAE; folded" if embedding else "none"
    return _model(tensors, scale=scale, normalisation=norm, source=_source(path))


def read_second(files: ForeignFiles) -> ForeignModel:
    """The second release. Raises FormatError for cross-layer transcoders."""
    config = read_json(files.file(CONFIG))
    if config.text("architecture") != "jump_relu":
        raise config.wrong("architecture", "is not imported")
    with open_safetensors(files.file(PARAMS), files.admit) as table:
        header = table.headers.get("w_dec")
        if header is not None and len(header.shape) == 3:
            raise FormatError(
                f"{PARAMS}: w_dec has shape {list(header.shape)}: a cross-layer transcoder",
                remedy="import SAEs and per-layer transcoders",
            )
        affine = _AFFINE in table.headers
        taken = table.take({**_SECOND, _AFFINE: ("d_in", "d_out")} if affine else _SECOND)
        tensors = {name.replace("w_", "W_"): value.clone() for name, value in taken.items()}
    source, target = _places(config)
    if not target and tensors["W_dec"].shape[1] != tensors["W_enc"].shape[0]:
        target = "target"
    return _model(
        tensors, source=source, target=target, details={"foreign_config": dict(config.values)}
    )


def _model(
    tensors: dict[str, Tensor],
    *,
    source: str,
    target: str = "",
    scale: float = 1.0,
    normalisation: str = "none",
    details: dict[str, object] | None = None,
) -> ForeignModel:
    return ForeignModel(
        architecture="jumprelu",
        W_enc_DF=tensors["W_enc"],
        b_enc_F=tensors["b_enc"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        threshold_F=tensors["threshold"],
        W_skip_OD=tensors[_AFFINE].T if _AFFINE in tensors else None,
        activation=ThresholdActivation(),
        in_scale=scale,
        out_scale=scale,
        source=source,
        target=target,
        conventions={
            "b_dec": "not subtracted",
            "normalisation": normalisation,
            "layer_norm": "none",
        },
        details=details or {},
    )


def _source(path: Path) -> str:
    """The layer, where the release's folder names are kept; the hook is named elsewhere."""
    match = _LAYER.search(path.as_posix())
    return f"layer.{match[1]}" if match else UNNAMED


def _places(config: JsonObject) -> tuple[str, str]:
    source = config.text("hf_hook_point_in", "") or UNNAMED
    target = config.text("hf_hook_point_out", "")
    return source, "" if target == source else target
