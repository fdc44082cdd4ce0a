"""SAELens: `cfg.json` and `sae_weights.safetensors` (`SAE.load_from_disk`), written as release 6
and read as any release wrote them."""

from __future__ import annotations

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    ReluActivation,
    RowNorm,
    ThresholdActivation,
    TopKActivation,
)
from saeserve.core.peers import payload, saelens_config, saelens_tensors
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import ForeignModel
from saeserve.core.peers.hooks import hook_of
from saeserve.core.peers.payload import Payload, cannot
from saeserve.core.peers.readings import Readings
from saeserve.core.peers.safetensors_file import open_safetensors

FORMAT = "saelens"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
WRITTEN_VERSION = "6.0.0"
"""The config's form; SAELens renames and defaults fields of configs before 6."""
LAYER_NORM = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
"""(x - mean) / (std + eps) with the unbiased std, undone on the output by std alone."""
_TRAINED_ON = {
    "expected_average_only_in": "rows scaled to a mean norm of sqrt(d_in)",
    "covariance_whitening": "whitened rows",
}
"""Folded into the weights when training ends; a file that still says so was saved before, and the
scale is not in it."""


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for architectures, activations and normalisations that we do not hold."""
    written = read_json(files.file(CONFIG))
    config = saelens_config.modern(written)
    architecture = saelens_tensors.architecture(config)
    transcoder = architecture.endswith("transcoder")
    subtracts = _subtracts(config, transcoder=transcoder)
    with open_safetensors(files.file(WEIGHTS), files.admit) as table:
        taken = saelens_tensors.take(table, architecture, config)
    tensors = taken.tensors
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
        source=saelens_config.input_source(config),
        target=(saelens_config.source(config, out=True) or "target") if transcoder else "",
        writer=saelens_config.writer(written),
        readings=_readings(config, architecture, finetuned=taken.finetuned),
        conventions=_conventions(config, subtracts, row_norm, architecture),
        details={"foreign_config": dict(written.values)},
    )


def write(model: InferenceModel) -> Payload:
    """Raises FormatError for what SAELens has no inference class for."""
    payload.check_single_source(model, FORMAT)
    config = _config(model)
    known = payload.unweighted(model).tensors
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")
    tensors = {name: known[name] for name in names if name in known}
    return Payload({CONFIG: config}, {WEIGHTS: tensors})


def _subtracts(config: JsonObject, *, transcoder: bool) -> bool:
    subtracts = config.flag("apply_b_dec_to_input", default=True)
    if transcoder and subtracts:
        raise config.wrong("apply_b_dec_to_input", "is true (the default) for a transcoder")
    if not transcoder:
        saelens_config.check_is_autoencoder(config)
    return subtracts


def _readings(config: JsonObject, architecture: str, *, finetuned: bool) -> tuple[Readings, ...]:
    found: list[Readings] = []
    how = config.text("normalize_activations", "none")
    if how in _TRAINED_ON:
        found.append(
            Readings(
                f"normalize_activations is {how!r}, and the scale is not in the files",
                "SAELens does from disk: raw rows, nothing scaled",
                f"trained: {_TRAINED_ON[how]}, with the scale that the release's list has, if any",
            )
        )
    if finetuned:
        found.append(
            Readings(
                "a scaling factor for each latent multiplies features before they are decoded",
                "SAELens before 6 did: the factors are folded into W_dec",
                "SAELens 6's, which has no place for them",
            )
        )
    signed = config.part("activation_fn_kwargs").flag("signed", default=False)
    if architecture == "abstopk" and signed:
        found.append(
            Readings(
                "activation_fn_kwargs.signed is true, which comes from sparsify",
                "sparsify trained: the k largest by magnitude, signs kept",
                "SAELens's: the k largest, then ReLU",
            )
        )
    return tuple(found)


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
    if how == "none" or how in _TRAINED_ON:
        return RowNorm()
    if how == "layer_norm" and not transcoder:
        return LAYER_NORM
    raise config.wrong("normalize_activations", "is not imported")


def _conventions(
    config: JsonObject, subtracts: bool, row_norm: RowNorm, architecture: str
) -> dict[str, str]:
    said = {
        "b_dec": "subtracted from the input; folded into b_enc" if subtracts else "not subtracted",
        "normalisation": config.text("normalize_activations", "none"),
        "layer_norm": "each row, undone on the output" if row_norm.kind != "none" else "none",
    }
    if said["normalisation"] in _TRAINED_ON:
        said["normalisation"] += ": nothing at inference, as in SAELens"
    if _concatenates_heads(config):
        said["rows"] = "heads of hook_z are concatenated into one row"
    if architecture == "gated":
        said["gate"] = "written as a threshold on the magnitude path"
    return said


def _concatenates_heads(config: JsonObject) -> bool:
    """Before release 3 the hook's name alone said so."""
    how = config.values.get("reshape_activations")
    if how is not None:
        return how != "none"
    metadata = config.part("metadata")
    whole = metadata.values.get("hook_head_index") is None
    return whole and metadata.optional_text("hook_name").endswith("hook_z")


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
    hook, head = hook_of(config.inputs[0].name)
    values: dict[str, object] = {
        "sae_lens_version": WRITTEN_VERSION,
        "sae_lens_training_version": f"saeserve {config.lineage.code_version}".strip(),
        "training_architecture": config.architecture,
        "hook_name": hook,
        "hook_head_index": head,
        "dataset_path": config.lineage.dataset,
    }
    if _transcodes(model):
        values["hook_name_out"], head_out = hook_of(config.outputs[0].name)
        if head_out is not None:
            values["hook_head_index_out"] = head_out
    return values
