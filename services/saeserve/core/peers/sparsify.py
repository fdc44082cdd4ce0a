"""EleutherAI sparsify: `cfg.json` and `sae.safetensors` (`SparseCoder.load_from_disk`).

How its form grew: `signed` from June to August 2024; `multi_topk` in its place; `skip_connection`
from November 2024, when transcoders came, which the run's `config.json` in the folder above tells,
and no `cfg.json`; `transcode` and `activation` from February 2025. Until then transcoders
subtracted b_dec from their input; since then they do not (its pull request 49).
"""

from __future__ import annotations

from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import TopKActivation
from saeserve.core.peers import payload, sparsify_places
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import ForeignModel
from saeserve.core.peers.payload import Payload, cannot
from saeserve.core.peers.readings import Readings
from saeserve.core.peers.safetensors_file import open_safetensors
from saeserve.core.peers.tables import Layout

FORMAT = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_LAYOUT: Layout = {
    "encoder.weight": ("num_latents", "d_in"),
    "encoder.bias": ("num_latents",),
    "W_dec": ("num_latents", "d_in"),
    "b_dec": ("d_in",),
}
_KEYS = frozenset(
    {
        "activation",
        "d_in",
        "expansion_factor",
        "k",
        "multi_topk",
        "normalize_decoder",
        "num_latents",
        "signed",
        "skip_connection",
        "transcode",
    }
)
"""Config fields of all releases; the library would drop others."""


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for groupmax and for settings that no release of the library has."""
    config = read_json(files.file(CONFIG))
    _check(config)
    place = sparsify_places.find(files, config)
    old_transcoder = bool(place.target) and config.values.get("activation") is None
    subtracts = not place.target or old_transcoder
    tensors = _tensors(files, config)
    return ForeignModel(
        architecture="topk",
        W_enc_DF=tensors["encoder.weight"].T,
        b_enc_F=tensors["encoder.bias"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        activation=TopKActivation(k=_k(config), post="abs" if _signed(config) else "relu"),
        subtracts_b_dec=subtracts,
        W_skip_OD=tensors.get("W_skip"),
        source=place.source,
        target=place.target,
        unstated=place.unstated,
        writer=_writer(config),
        readings=_readings(config, old_transcoder=old_transcoder),
        conventions={
            "b_dec": "subtracted from the input; folded into b_enc"
            if subtracts
            else "not subtracted: a transcoder",
            "normalisation": "none",
            "layer_norm": "none",
        },
        details={"foreign_config": dict(config.values), **place.details},
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


def _check(config: JsonObject) -> None:
    if config.text("activation", "topk") != "topk":
        raise config.wrong("activation", "is not imported")
    for key in sorted(set(config.values) - _KEYS):
        if config.values[key]:
            raise config.wrong(key, "is a setting that this release does not know")


def _signed(config: JsonObject) -> bool:
    """The k largest by magnitude, signs kept."""
    return config.flag("signed", default=False)


def _readings(config: JsonObject, *, old_transcoder: bool) -> tuple[Readings, ...]:
    """`activation` came the day on which transcoders ceased to subtract b_dec. Without
    `transcode` the library of today subtracts it, too."""
    found: list[Readings] = []
    if _signed(config):
        found.append(
            Readings(
                "sparsify keeps signed latents where `signed` is true, and has ignored the key "
                "since August 2024",
                "trained: the k largest by magnitude, signs kept",
                "the library's of today: the k largest, then ReLU",
            )
        )
    if old_transcoder and config.flag("transcode", default=False):
        found.append(
            Readings(
                "sparsify's transcoders subtracted b_dec from their input until February 2025, "
                "and `activation` is missing as in files of that time",
                "trained then: b_dec is subtracted from the input",
                "the library's of today: b_dec is not subtracted",
            )
        )
    return tuple(found)


def _writer(config: JsonObject) -> str:
    keys = config.values
    if "activation" in keys:
        return "sparsify, February 2025 or later"
    if "transcode" in keys or "skip_connection" in keys:
        return "sparsify, November 2024 to February 2025"
    if "multi_topk" in keys:
        return "sparsify (then sae), August to November 2024"
    return "sparsify (then sae), before August 2024"


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
