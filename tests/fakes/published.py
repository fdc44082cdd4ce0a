"""Rows of the table of published models: their files, and what their libraries compute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.fakes.peers import D_SAE, D, write_safetensors
from torch import Tensor

from saeserve.core.specs.interchange import ImportFormat

_FORMATS: dict[str, ImportFormat] = {
    "saelens": "saelens",
    "sparsify": "sparsify",
    "gemma_scope": "gemma_scope",
    "gemma_scope_2": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "openai": "openai",
}
THRESHOLD = 0.4
"""The one threshold of forms that have a single one."""


@dataclass(frozen=True)
class Row:
    """One config: `form` is its format, or the class of dictionary_learning that its tensors are
    of; `model` says how its library computes it."""

    name: str
    origin: str
    folder: str
    form: str
    config: dict[str, Any] | None
    old: bool = False
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""
    target: str = ""
    writer: str = ""
    warned: list[str] = field(default_factory=list[str])
    refused: str = ""


def renamed(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """JSON says `from` for the origin."""
    return ({"origin": row.pop("from"), **row} for row in rows)


def format_of(row: Row) -> ImportFormat:
    """What the importer is called by."""
    return _FORMATS.get(row.form, "dictionary_learning")


def write(row: Row, root: Path) -> Path:
    """The row's files below `root`; returns what is imported."""
    folder = root / row.folder
    w = weights(row)
    if row.form == "openai":
        folder.parent.mkdir(parents=True)
        torch.save(_openai(row, w), folder)
        return folder
    folder.mkdir(parents=True)
    if row.config is not None:
        (folder / _CONFIGS.get(row.form, "config.json")).write_text(json.dumps(row.config))
    if format_of(row) == "dictionary_learning":
        torch.save(_dictionary(row, w), folder / "ae.pt")
    elif row.form == "gemma_scope":
        np.savez(folder / "params.npz", **_arrays(row, w))  # pyright: ignore[reportArgumentType] - any name is allowed
    else:
        file, tensors = _SAFETENSORS[row.form](row, w)
        write_safetensors(folder / file, tensors)
    return folder


def weights(row: Row) -> dict[str, Tensor]:
    """W_enc, W_dec of row norms that differ, biases and what else a form can have."""
    draws = torch.Generator().manual_seed(4)
    d_out = row.model.get("d_out", D)
    return {
        "W_enc": torch.randn(D, D_SAE, generator=draws),
        "b_enc": torch.randn(D_SAE, generator=draws),
        "W_dec": torch.randn(D_SAE, d_out, generator=draws),
        "b_dec": torch.randn(d_out, generator=draws) * (not row.model.get("no_bias")),
        "threshold": torch.rand(D_SAE, generator=draws),
        "b_gate": torch.randn(D_SAE, generator=draws),
        "b_mag": torch.randn(D_SAE, generator=draws),
        "r_mag": 0.3 * torch.randn(D_SAE, generator=draws),
        "factor": 0.5 + torch.rand(D_SAE, generator=draws),
        "W_skip": torch.randn(d_out, D, generator=draws),
    }


def expected(row: Row, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Features in the library's units and reconstructions, float64."""
    w = {name: value.double() for name, value in weights(row).items()}
    model = row.model
    x_BD = x_BD.double()
    scale_in, scale_out = _scales(row)
    mean_B1, spread_B1 = x_BD.mean(1, keepdim=True), x_BD.std(1, keepdim=True)
    inner_BD = (x_BD - mean_B1) / (spread_B1 + 1e-5) if model.get("layer_norm") else x_BD
    moved_BD = inner_BD * scale_in - (w["b_dec"] if model["subtracts"] else 0)
    f_BF = _features(row, w, moved_BD)
    decoded_BO = f_BF * (w["factor"] if model.get("factor") else 1) @ _decoder(row, w) + w["b_dec"]
    decoded_BO = decoded_BO / scale_out
    if model.get("skip"):
        decoded_BO = decoded_BO + x_BD @ w["W_skip"].T
    if model.get("layer_norm"):
        decoded_BO = decoded_BO * spread_B1 + mean_B1
    return f_BF, decoded_BO


def _features(row: Row, w: Mapping[str, Tensor], moved_BD: Tensor) -> Tensor:
    linear_BF = moved_BD @ w["W_enc"]
    h_BF, select = linear_BF + w["b_enc"], row.model["select"]
    norm_F = w["W_dec"].square().sum(1).sqrt()
    if select == "gated":
        magnitude_BF = (w["r_mag"].exp() * linear_BF + w["b_mag"]).relu()
        return magnitude_BF * (linear_BF + w["b_gate"] > 0)
    if select == "threshold":
        return h_BF.relu() * (h_BF > w["threshold"])
    if select == "one_threshold":
        return h_BF.relu() * (h_BF > THRESHOLD)
    if select == "llama":
        theta = (row.config or {})["jump_relu_threshold"] * _scales(row)[1]
        return h_BF * (h_BF * norm_F > float(theta))
    if select == "relu":
        return h_BF.relu()
    ranked_BF = {"abs": h_BF.abs(), "topk": h_BF, "topk_by_norm": h_BF * norm_F}[select]
    values_BF = h_BF if select == "abs" else ranked_BF.relu()
    chosen_BK = ranked_BF.topk(row.model["k"], dim=1).indices
    return torch.zeros_like(h_BF).scatter(1, chosen_BK, values_BF.gather(1, chosen_BK))


def _decoder(row: Row, w: Mapping[str, Tensor]) -> Tensor:
    """SAELens divides features that count norms by them again."""
    if row.model["select"] == "topk_by_norm":
        return w["W_dec"] / w["W_dec"].square().sum(1, keepdim=True).sqrt()
    return w["W_dec"]


def _scales(row: Row) -> tuple[float, float]:
    if row.form == "llama_scope" and row.config is not None:
        norms = row.config["dataset_average_activation_norm"]
        return math.sqrt(D) / norms["in"], math.sqrt(D) / norms["out"]
    scale = 1 / math.sqrt(D) if row.model.get("scale") else 1.0
    return scale, scale


def _saelens(row: Row, w: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    names = ["W_enc", "W_dec", "b_dec"]
    gated = row.model.get("select") == "gated"
    names += ["b_gate", "b_mag", "r_mag"] if gated else ["b_enc"]
    names += ["threshold"] if row.model.get("select") == "threshold" else []
    names += ["W_skip"] if row.model.get("skip") else []
    tensors = {name: w[name] for name in names}
    factor = row.model.get("factor")
    if factor:
        tensors[factor if isinstance(factor, str) else "scaling_factor"] = w["factor"]
    if row.model.get("ones"):
        tensors["scaling_factor"] = torch.ones(D_SAE)
    return "sae_weights.safetensors", tensors


def _sparsify(row: Row, w: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    tensors |= {"W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    skip = {"W_skip": w["W_skip"]} if row.model.get("skip") else {}
    return "sae.safetensors", tensors | skip


def _gemma_2(row: Row, w: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    tensors = {"w_enc": w["W_enc"], "w_dec": w["W_dec"]}
    tensors |= {name: w[name] for name in ("b_enc", "b_dec", "threshold")}
    skip = {"affine_skip_connection": w["W_skip"].T} if row.model.get("skip") else {}
    return "params.safetensors", tensors | skip


def _llama(row: Row, w: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    bias = {} if row.model.get("no_bias") else {"decoder.bias": w["b_dec"]}
    return "checkpoints/final.safetensors", {**tensors, "decoder.weight": w["W_dec"].T, **bias}


def _arrays(row: Row, w: dict[str, Tensor]) -> dict[str, Any]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    lower = row.model.get("lower")
    return {name.replace("W_", "w_") if lower else name: w[name].numpy() for name in names}


def _openai(row: Row, w: dict[str, Tensor]) -> dict[str, object]:
    state: dict[str, object] = {"pre_bias": w["b_dec"], "latent_bias": w["b_enc"]}
    state |= {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    if row.model["select"] == "relu":
        return state | {"activation": "ReLU"}
    options = {"k": row.model["k"], "postact_fn": "ReLU"}
    return state | {"activation": "TopK", "activation_state_dict": options}


def _dictionary(row: Row, w: dict[str, Tensor]) -> dict[str, object]:
    """The state of a class; TopKOld and TopKRows are its top-k of before it had buffers, and of
    before its decoder was a layer."""
    plain = {name: w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    linear = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    biased = {**linear, "encoder.bias": w["b_enc"]}
    old = {**biased, "b_dec": w["b_dec"]}
    buffers = {"k": torch.tensor(3, dtype=torch.int32), "threshold": torch.tensor(THRESHOLD)}
    gates = {"gate_bias": w["b_gate"], "mag_bias": w["b_mag"], "r_mag": w["r_mag"]}
    by_rows = {name: value for name, value in old.items() if name != "decoder.weight"}
    states: dict[str, dict[str, Tensor]] = {
        "AutoEncoder": {**biased, "bias": w["b_dec"]},
        "AutoEncoderNew": {**biased, "decoder.bias": w["b_dec"]},
        "GatedAutoEncoder": {**linear, **gates, "decoder_bias": w["b_dec"]},
        "JumpReluAutoEncoder": {**plain, "threshold": w["threshold"]},
        "TopKOld": old,
        "TopKRows": {**by_rows, "decoder": w["W_dec"]},
        "AutoEncoderTopK": {**old, **buffers},
        "BatchTopKSAE": {**old, **buffers},
        "MatryoshkaBatchTopKSAE": {**plain, **buffers, "group_sizes": torch.tensor([8, 16])},
    }
    return dict(states[row.form])


_CONFIGS = {"saelens": "cfg.json", "sparsify": "cfg.json", "llama_scope": "hyperparams.json"}
_SAFETENSORS = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "gemma_scope_2": _gemma_2,
    "llama_scope": _llama,
}
