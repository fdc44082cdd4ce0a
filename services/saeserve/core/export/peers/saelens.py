"""SAELens 6: `cfg.json` and `sae_weights.safetensors` (`SAE.load_from_disk`)."""

from __future__ import annotations

from torch import Tensor

from saeserve.core.errors import FormatError
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.peers import payload
from saeserve.core.export.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.export.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.export.peers.gated import as_threshold
from saeserve.core.export.peers.hooks import hook_of, source_of
from saeserve.core.export.peers.payload import Payload, cannot
from saeserve.core.export.peers.safetensors_file import open_safetensors
from saeserve.core.export.peers.tables import Layout, TensorTable
from saeserve.core.specs.model import (
    ReluActivation,
    RowNorm,
    ThresholdActivation,
    TopKActivation,
)

FORMAT = "saelens"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
WRITTEN_VERSION = "6.0.0"
"""The config's form; SAELens renames and defaults fields of configs before 6."""
LAYER_NORM = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
"""(x - mean) / (std + eps) with the unbiased std, undone on the output by std alone."""

_DECODER: Layout = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",)}
_BIAS: Layout = {"b_enc": ("d_sae",)}
_SKIP: Layout = {"W_skip": ("d_out", "d_in")}
_LAYOUTS: dict[str, Layout] = {
    "standard": {**_DECODER, **_BIAS},
    "topk": {**_DECODER, **_BIAS},
    "abstopk": {**_DECODER, **_BIAS},
    "jumprelu": {**_DECODER, **_BIAS, "threshold": ("d_sae",)},
    "gated": {**_DECODER, "b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)},
    "transcoder": {**_DECODER, **_BIAS},
    "jumprelu_transcoder": {**_DECODER, **_BIAS, "threshold": ("d_sae",)},
    "skip_transcoder": {**_DECODER, **_BIAS, **_SKIP},
    "jumprelu_skip_transcoder": {**_DECODER, **_BIAS, **_SKIP, "threshold": ("d_sae",)},
}
_NO_OPS = ("none", "expected_average_only_in", "covariance_whitening")
"""At inference SAELens does nothing for these: they are folded when training ends."""


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for architectures and normalisations that we do not hold."""
    config = read_json(files.file(CONFIG))
    architecture = _architecture(config)
    transcoder = architecture.endswith("transcoder")
    subtracts = config.flag("apply_b_dec_to_input", default=True)
    if transcoder and subtracts:
        raise config.wrong("apply_b_dec_to_input", "is true (the default) for a transcoder")
    with open_safetensors(files.file(WEIGHTS), files.admit) as table:
        tensors = _take(table, architecture, config)
    row_norm = _row_norm(config, transcoder)
    return ForeignModel(
        architecture=config.part("metadata").text("training_architecture", architecture),
        W_enc_DF=tensors["W_enc"],
        b_enc_F=tensors["b_enc"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        threshold_F=tensors.get("threshold"),
        activation=_activation(config, architecture),
        subtracts_b_dec=subtracts,
        selects_by_norm=_by_norm(config, architecture),
        row_norm=row_norm,
        W_skip_OD=tensors.get("W_skip"),
        source=_source(config, "hook_name") or UNNAMED,
        target=(_source(config, "hook_name_out") or "target") if transcoder else "",
        conventions=_conventions(config, subtracts, row_norm, architecture),
        details={"foreign_config": dict(config.values)},
    )


def write(model: InferenceModel) -> Payload:
    """Raises FormatError for what SAELens has no inference class for."""
    payload.check_single_source(model, FORMAT)
    config = _config(model)
    known = payload.unweighted(model).tensors
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")
    tensors = {name: known[name] for name in names if name in known}
    return Payload({CONFIG: config}, {WEIGHTS: tensors})


def _architecture(config: JsonObject) -> str:
    architecture = config.text("architecture")
    version = config.part("metadata").text("sae_lens_version", config.text("sae_lens_version", "0"))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < 6:
        raise FormatError(
            f"{config.where} is of SAELens {version if version != '0' else 'before 6'}",
            remedy="load it with SAELens 6 and call save_model",
        )
    if architecture not in _LAYOUTS:
        raise FormatError(
            f"{config.where}: architecture {architecture!r} is not imported",
            remedy=f"imported are: {', '.join(_LAYOUTS)}",
        )
    return architecture


def _take(table: TensorTable, architecture: str, config: JsonObject) -> dict[str, Tensor]:
    d_in = config.whole("d_in")
    d_out = config.whole("d_out") if architecture.endswith("transcoder") else d_in
    dims = {"d_in": d_in, "d_out": d_out, "d_sae": config.whole("d_sae")}
    tensors = table.take(_LAYOUTS[architecture], dims)
    if architecture != "gated":
        return {name: value.clone() for name, value in tensors.items()}
    return as_threshold(tensors["W_enc"], tensors["b_gate"], tensors["b_mag"], tensors["r_mag"]) | {
        name: tensors[name].clone() for name in ("W_dec", "b_dec")
    }


def _activation(
    config: JsonObject, architecture: str
) -> TopKActivation | ThresholdActivation | ReluActivation:
    if architecture in ("topk", "abstopk"):
        post = "relu" if architecture == "topk" else "abs"
        return TopKActivation(k=_k(config), post=post)
    if architecture.startswith("jumprelu") or architecture == "gated":
        return ThresholdActivation()
    return ReluActivation()


def _k(config: JsonObject) -> int:
    k = config.whole("k")
    if k > config.whole("d_sae"):
        raise config.wrong("k", f"exceeds d_sae = {config.whole('d_sae')}")
    return k


def _by_norm(config: JsonObject, architecture: str) -> bool:
    return architecture.endswith("topk") and config.flag("rescale_acts_by_decoder_norm", False)


def _row_norm(config: JsonObject, transcoder: bool) -> RowNorm:
    how = config.text("normalize_activations", "none")
    if how in _NO_OPS:
        return RowNorm()
    if how == "layer_norm" and not transcoder:
        return LAYER_NORM
    raise config.wrong("normalize_activations", "is not imported")


def _source(config: JsonObject, key: str) -> str:
    return source_of(config.part("metadata").text(key, ""))


def _conventions(
    config: JsonObject, subtracts: bool, row_norm: RowNorm, architecture: str
) -> dict[str, str]:
    said = {
        "b_dec": "subtracted from the input; folded into b_enc" if subtracts else "not subtracted",
        "normalisation": config.text("normalize_activations", "none"),
        "layer_norm": "each row, undone on the output" if row_norm.kind != "none" else "none",
    }
    if said["normalisation"] in _NO_OPS[1:]:
        said["normalisation"] += ": nothing at inference, as in SAELens"
    if config.text("reshape_activations", "none") != "none":
        said["rows"] = "heads of hook_z are concatenated into one row"
    if architecture == "gated":
        said["gate"] = "written as a threshold on the magnitude path"
    return said


def _config(model: InferenceModel) -> dict[str, object]:
    config = model.config
    values: dict[str, object] = {
        "architecture": _written_architecture(model),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": _written_norm(model),
        "reshape_activations": "none",
        "metadata": _metadata(model),
    }
    if isinstance(config.activation, TopKActivation):
        values |= {"k": config.activation.k, "rescale_acts_by_decoder_norm": False}
    if _transcodes(model):
        values["d_out"] = config.d_out
    return values


def _written_architecture(model: InferenceModel) -> str:
    activation = model.config.activation
    transcoder = _transcodes(model)
    if isinstance(activation, TopKActivation):
        if transcoder:
            raise cannot(FORMAT, "it has no top-k transcoder, with or without skip connection")
        if activation.post == "none":
            raise cannot(FORMAT, "activation.post is 'none'; its top-k applies ReLU")
        return "abstopk" if activation.post == "abs" else "topk"
    threshold = isinstance(activation, ThresholdActivation)
    if not transcoder:
        return "jumprelu" if threshold else "standard"
    skip = "skip_" if model.config.skip_connection else ""
    return f"{'jumprelu_' if threshold else ''}{skip}transcoder"


def _transcodes(model: InferenceModel) -> bool:
    """SAELens has skip connections in transcoders only, which may map a place to itself."""
    return model.config.transcodes or model.config.skip_connection


def _written_norm(model: InferenceModel) -> str:
    row_norm = model.config.row_norm
    if row_norm.kind == "none":
        return "none"
    if row_norm != LAYER_NORM or _transcodes(model):
        raise cannot(FORMAT, f"row_norm is {row_norm.to_json()}")
    return "layer_norm"


def _metadata(model: InferenceModel) -> dict[str, object]:
    config = model.config
    values: dict[str, object] = {
        "sae_lens_version": WRITTEN_VERSION,
        "sae_lens_training_version": f"saeserve {config.lineage.code_version}".strip(),
        "training_architecture": config.architecture,
        "hook_name": hook_of(config.inputs[0].name),
        "hook_head_index": None,
        "dataset_path": config.lineage.dataset,
    }
    if _transcodes(model):
        values["hook_name_out"] = hook_of(config.outputs[0].name)
    return values
