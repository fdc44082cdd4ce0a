"""dictionary_learning: `config.json` and `ae.pt` (`utils.load_dictionary`)."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.export.fold import DEAD_NORM
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import ReluActivation, ThresholdActivation, TopKActivation
from saeserve.core.peers import dictionary_places, payload
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import ForeignModel
from saeserve.core.peers.gated import as_threshold
from saeserve.core.peers.hooks import layer_of
from saeserve.core.peers.payload import Payload, cannot
from saeserve.core.peers.tables import Layout, TensorTable
from saeserve.core.peers.torch_file import read_torch
from saeserve.errors import FormatError

FORMAT = "dictionary_learning"
CONFIG, STATE = "config.json", "ae.pt"

_LINEAR: Layout = {"encoder.weight": ("d_sae", "d"), "decoder.weight": ("d", "d_sae")}
_PLAIN: Layout = {
    "W_enc": ("d", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "d"),
    "b_dec": ("d",),
}
_TOPK: Layout = {**_LINEAR, "encoder.bias": ("d_sae",), "b_dec": ("d",)}
_LAYOUTS: dict[str, Layout] = {
    "AutoEncoder": {**_LINEAR, "encoder.bias": ("d_sae",), "bias": ("d",)},
    "AutoEncoderNew": {**_LINEAR, "encoder.bias": ("d_sae",), "decoder.bias": ("d",)},
    "GatedAutoEncoder": {
        **_LINEAR,
        "decoder_bias": ("d",),
        "r_mag": ("d_sae",),
        "gate_bias": ("d_sae",),
        "mag_bias": ("d_sae",),
    },
    "JumpReluAutoEncoder": {**_PLAIN, "threshold": ("d_sae",)},
    "AutoEncoderTopK": _TOPK,
    "BatchTopKSAE": _TOPK,
    "MatryoshkaBatchTopKSAE": _PLAIN,
}
_OURS = {
    "W_enc": ("W_enc",),
    "b_enc": ("b_enc", "encoder.bias"),
    "W_dec": ("W_dec",),
    "b_dec": ("b_dec", "bias", "decoder.bias", "decoder_bias"),
    "threshold": ("threshold",),
}
_NAMES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
}
_BY_TRAINER = {
    "StandardTrainer": "AutoEncoder",
    "StandardTrainerNew": "AutoEncoderNew",
    "GatedSAETrainer": "GatedAutoEncoder",
    "PAnnealTrainer": "AutoEncoder",
}
_AS_ROWS = {"decoder.weight": "decoder"}
_BY_THRESHOLD = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_NOT_SUBTRACTED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for other classes, and for pickled code."""
    config = read_json(files.file(CONFIG))
    trainer = config.part("trainer")
    kind = _kind(trainer)
    table = read_torch(files.file(STATE), files.admit).tensors
    state = _state_of(table, kind)
    tensors = _encoder(kind, state) | _renamed(state)
    if kind in _BY_THRESHOLD:
        tensors["threshold"] = _shared_threshold(table, tensors["b_enc"])
    subtracts = kind not in _NOT_SUBTRACTED
    place = dictionary_places.find(config)
    return ForeignModel(
        architecture=_NAMES[kind],
        W_enc_DF=tensors["W_enc"],
        b_enc_F=tensors["b_enc"],
        W_dec_FO=tensors["W_dec"],
        b_dec_O=tensors["b_dec"],
        threshold_F=tensors.get("threshold"),
        activation=_activation(kind, table, trainer),
        subtracts_b_dec=subtracts,
        source=place.source,
        target=place.target,
        writer="dictionary_learning",
        conventions=_conventions(kind, subtracts),
        details={"foreign_config": dict(config.values)},
    )


def write(model: InferenceModel) -> Payload:
    """Raises FormatError for transcoders, row norms and top-k without ReLU."""
    payload.check_single_source(model, FORMAT)
    if model.config.skip_connection:
        raise cannot(FORMAT, "skip_connection is true")
    if model.config.transcodes:
        raise cannot(FORMAT, "its output is another source than its input (a transcoder)")
    if model.config.row_norm.kind != "none":
        raise cannot(FORMAT, f"row_norm.kind is {model.config.row_norm.kind!r}")
    kind, state, extra = _state(payload.unweighted(model))
    return Payload({CONFIG: _config(model, kind, extra)}, {}, {STATE: state})


def _kind(trainer: JsonObject) -> str:
    """The class; until July 2024 some configs named the trainer alone. Raises FormatError."""
    key = "dict_class" if trainer.values.get("dict_class") else "trainer_class"
    name = trainer.text(key)
    kind = name if key == "dict_class" else _BY_TRAINER.get(name, name)
    if kind not in _LAYOUTS:
        raise trainer.wrong(key, "is not imported")
    return kind


def _state_of(table: TensorTable, kind: str) -> dict[str, Tensor]:
    """The state; the first top-k class kept its decoder as rows, as its kernels wanted it."""
    layout = _LAYOUTS[kind]
    rows = kind == "AutoEncoderTopK" and "decoder" in table.headers
    if rows:
        layout = {_AS_ROWS.get(name, name): layout[name] for name in layout}
        layout["decoder"] = ("d_sae", "d")
    state = table.take(layout, ignore=frozenset({"k", "threshold", "group_sizes"}))
    if rows:
        state["decoder.weight"] = state.pop("decoder").T
    return state


def _encoder(kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder of the classes that hold linear layers, in our orientation."""
    if "encoder.weight" not in state:
        return {}
    W_enc_DF = state["encoder.weight"].T
    ours = {"W_enc": W_enc_DF, "W_dec": state["decoder.weight"].T}
    if kind == "GatedAutoEncoder":
        ours |= as_threshold(W_enc_DF, state["gate_bias"], state["mag_bias"], state["r_mag"])
    return ours


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    pairs = ((our, name) for our, names in _OURS.items() for name in names)
    return {our: state[name] for our, name in pairs if name in state}


def _shared_threshold(table: TensorTable, b_enc_F: Tensor) -> Tensor:
    """One threshold for all; -1 stands for one never set, which lets every positive through."""
    return torch.full_like(b_enc_F, table.scalar("threshold"), dtype=torch.float64)


def _activation(
    kind: str, table: TensorTable, trainer: JsonObject
) -> TopKActivation | ThresholdActivation | ReluActivation:
    if kind != "AutoEncoderTopK":
        relu = kind in ("AutoEncoder", "AutoEncoderNew")
        return ReluActivation() if relu else ThresholdActivation()
    k = table.integer("k") if "k" in table.headers else trainer.whole("k")
    if trainer.whole("k", k) != k or not 1 <= k <= table.dims["d_sae"]:
        raise FormatError(
            f"{STATE} says k = {k}, {CONFIG} {trainer.values.get('k')}, "
            f"with {table.dims['d_sae']} latents",
            remedy="correct trainer.k",
        )
    return TopKActivation(k=k)


def _conventions(kind: str, subtracts: bool) -> dict[str, str]:
    said = {
        "b_dec": "subtracted from the input; folded into b_enc" if subtracts else "not subtracted",
        "normalisation": "none: activation norms are folded into biases when saved",
        "layer_norm": "none",
    }
    if kind in _BY_THRESHOLD:
        said["selection"] = "by the learned threshold, as the library infers"
    if kind == "GatedAutoEncoder":
        said["gate"] = "written as a threshold on the magnitude path"
    return said


def _state(model: InferenceModel) -> tuple[str, dict[str, Tensor], dict[str, object]]:
    """Class, state_dict and what else the trainer's config says."""
    if model.threshold is not None:
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        return "JumpReluAutoEncoder", {name: model.tensors[name] for name in names}, {}
    linear = {
        "encoder.weight": model.W_enc.T,
        "encoder.bias": payload.bias_before_subtraction(model),
        "decoder.weight": _unit_rows(model).T,
    }
    if model.config.activation.kind == "relu":
        return "AutoEncoder", {**linear, "bias": model.b_dec}, {}
    k = payload.relu_top_k(model, FORMAT)
    buffers = {"k": torch.tensor(k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    return "AutoEncoderTopK", {**linear, **buffers, "b_dec": model.b_dec}, {"k": k}


def _unit_rows(model: InferenceModel) -> Tensor:
    """W_dec with any unit vector for dead latents: the library divides by the norms, and the
    features of dead latents are zero."""
    W_dec_FO = model.W_dec.clone()
    W_dec_FO[W_dec_FO.square().sum(dim=1).sqrt() < DEAD_NORM, 0] = 1.0
    return W_dec_FO


def _config(model: InferenceModel, kind: str, extra: dict[str, object]) -> dict[str, object]:
    config = model.config
    trainer: dict[str, object] = {
        "dict_class": kind,
        "trainer_class": "saeserve",
        "activation_dim": config.d_in,
        "dict_size": config.d_sae,
        "layer": layer_of(config.inputs[0].name),
        "lm_name": "",
        "submodule_name": config.inputs[0].name,
        **extra,
    }
    return {"trainer": trainer, "buffer": {"d_submodule": config.d_in, "ctx_len": None}}
