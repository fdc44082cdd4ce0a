"""Models made and saved by the other libraries, read here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import (
    save_file,  # pyright: ignore[reportUnknownVariableType] - it leaves PathLike's argument open
)
from tests.fakes.sae import row_norms
from tests.interop.compare import Functions, Outcome, compare, rows
from tests.interop.libraries import of_dictionary, of_saelens, of_sparse_coder
from torch import Tensor

from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.registry import import_model
from saeserve.core.specs.interchange import ImportFormat

D, D_SAE, K, D_OUT = 24, 96, 6, 20
Maker = Callable[[Path], Functions]


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Every kind of file that we read."""
    for format, makers in MAKERS.items():
        for form, make in makers.items():
            target = folder / _RELEASES.get(format, format) / form.replace(" ", "-")
            target.mkdir(parents=True)
            yield _outcome(format, form, target, make(target))


_RELEASES = {"gemma_scope": "gemma-scope-2b-pt-res"}
"""Folders of releases, for formats whose files do not say what they are of."""


def _outcome(format: ImportFormat, form: str, folder: Path, theirs: Functions) -> Outcome:
    imported = import_model(ForeignFiles.at(folder), format)
    model, scale_F = imported.model, imported.feature_scale_F
    # Compared in our units: a feature of ours is the foreign one times its scale.
    scaled = Functions(lambda x_BD: theirs.encode(x_BD) * scale_F.float(), theirs.reconstruct)
    ours = Functions(model.encode_dense, model.reconstruct)
    return Outcome("import", format, form, *compare(ours, scaled, rows(model.config.d_in)))


def _draw(model: Any) -> None:  # noqa: ANN401 - a module of any library
    """Random parameters: thresholds and norms positive, biases away from zero."""
    draws = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape, generator=draws))
            if name == "threshold":
                value.abs_()
            if name == "r_mag":
                value.mul_(0.3)


def _saelens(name: str, **config: Any) -> Maker:  # noqa: ANN401 - any field of its configs
    def make(folder: Path) -> Functions:
        library: Any = import_module("sae_lens")
        transcoders: Any = import_module("sae_lens.saes.transcoder")
        module = library if hasattr(library, name) else transcoders
        options = {"d_in": D, "d_sae": D_SAE, **config}
        sae = getattr(module, name)(getattr(module, f"{name}Config")(**options))
        _draw(sae)
        sae.save_model(folder)
        return of_saelens(sae)

    return make


def _dictionary(name: str, module: str = "dictionary", **options: Any) -> Maker:  # noqa: ANN401
    def make(folder: Path) -> Functions:
        library: Any = import_module(f"dictionary_learning.{module}")
        model = getattr(library, name)(D, D_SAE, **options)
        _draw(model)
        if "threshold" in dict(model.named_buffers()):
            model.threshold.fill_(0.5)
        torch.save(model.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "layer": 3, "lm_name": "m"}
        trainer |= {"k": K} if "k" in options else {}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
        return of_dictionary(model)

    return make


def _sparse_coder(**options: Any) -> Maker:  # noqa: ANN401 - any field of its config
    def make(folder: Path) -> Functions:
        library: Any = import_module("sparsify")
        config = library.SparseCoderConfig(k=K, num_latents=D_SAE, **options)
        coder = library.SparseCoder(D, config)
        _draw(coder)
        coder.save_to_disk(folder)
        return of_sparse_coder(coder)

    return make


def _released(architecture: str, loader: str, write: Callable[[Path], dict[str, Any]]) -> Maker:
    """Weights in a release's own files; SAELens's loader of that release says what they mean."""

    def make(folder: Path) -> Functions:
        overrides = write(folder)
        loading: Any = import_module("sae_lens.loading.pretrained_sae_loaders")
        loading.hf_hub_download = _local(folder)
        loading.get_safetensors_tensor_shapes = _shapes(folder)
        config, state, _ = getattr(loading, loader)(**overrides)
        return of_saelens(_sae(architecture, config, state))

    return make


def _local(folder: Path) -> Callable[..., str]:
    """In the place of a download: files keep the part of their path that the format prescribes."""

    def find(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        wanted = Path(repo_id) / subfolder / filename
        kept = wanted.parts[-2:] if "checkpoints" in wanted.parts else wanted.parts[-1:]
        return str(folder.joinpath(*kept))

    return find


def _shapes(folder: Path) -> Callable[..., dict[str, list[int]]]:
    """In the place of a look at the headers of a remote file."""

    def shapes(*_: object, **__: object) -> dict[str, list[int]]:
        load: Any = import_module("safetensors.torch").load_file
        tensors: dict[str, Tensor] = load(folder / "params.safetensors")
        return {name: list(value.shape) for name, value in tensors.items()}

    return shapes


def _sae(architecture: str, config: dict[str, Any], state: dict[str, Tensor]) -> Any:  # noqa: ANN401
    library: Any = import_module("sae_lens")
    module: Any = import_module("sae_lens.saes.transcoder")
    source = library if hasattr(library, architecture) else module
    options = {key: config[key] for key in ("d_in", "d_sae", "d_out") if key in config}
    settings = getattr(source, f"{architecture}Config")(apply_b_dec_to_input=False, **options)
    sae = getattr(source, architecture)(settings)
    sae.load_state_dict({name: value.float() for name, value in state.items()})
    if config.get("normalize_activations") == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(config["norm_scaling_factor"])
    return sae


def _jumprelu(d_out: int = D) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(13)
    return {
        "W_enc": torch.randn(D, D_SAE, generator=draws),
        "b_enc": torch.randn(D_SAE, generator=draws),
        "W_dec": torch.randn(D_SAE, d_out, generator=draws),
        "b_dec": torch.randn(d_out, generator=draws),
        "threshold": torch.rand(D_SAE, generator=draws),
    }


def _write_gemma_scope(folder: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {name: v.numpy() for name, v in _jumprelu().items()}
    np.savez(folder / "params.npz", **arrays)
    names = {"repo_id": "gemma-scope-2b-pt-res", "folder_name": "layer_3/width_16k/average_l0_7"}
    return {**names, "cfg_overrides": {"d_in": D, "d_sae": D_SAE}}


def _write_gemma_scope_2(skip: bool) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        tensors = _jumprelu(D_OUT if skip else D)
        renamed = {name.replace("W_", "w_"): value for name, value in tensors.items()}
        if skip:
            renamed["affine_skip_connection"] = torch.randn(D, D_OUT)
        save_file(renamed, folder / "params.safetensors")
        config = {
            "architecture": "jump_relu",
            "model_name": "gemma-v3-270m-pt",
            "hf_hook_point_in": "model.layers.3.output",
            "hf_hook_point_out": "model.layers.3.mlp.output" if skip else "model.layers.3.output",
            "affine_connection": skip,
        }
        (folder / "config.json").write_text(json.dumps(config))
        place = "transcoder" if skip else "resid_post"
        return {
            "repo_id": "google/gemma-scope-2-270m-pt",
            "folder_name": f"{place}/layer_3_width_16k_l0_small",
        }

    return write


def _write_llama_scope(folder: Path) -> dict[str, Any]:
    tensors = _jumprelu()
    unit_FD = tensors["W_dec"] / row_norms(tensors["W_dec"])[:, None]
    (folder / "checkpoints").mkdir()
    weights = {
        "encoder.weight": tensors["W_enc"].T.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "decoder.weight": unit_FD.T.contiguous(),
        "decoder.bias": tensors["b_dec"],
    }
    save_file(weights, folder / "checkpoints" / "final.safetensors")
    norm = 8.0
    config = {
        "d_model": D,
        "d_sae": D_SAE,
        "jump_relu_threshold": 0.4,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    }
    (folder / "hyperparams.json").write_text(json.dumps(config))
    overrides = {"dtype": "float32", "norm_scaling_factor": D**0.5 / norm}
    return {"repo_id": "fnlp/LXR-8x", "folder_name": "L3R-8x", "cfg_overrides": overrides}


_TRANSCODER = {"d_out": D_OUT, "apply_b_dec_to_input": False}
_BATCH = "trainers.batch_top_k"
_MATRYOSHKA = "trainers.matryoshka_batch_top_k"
MAKERS: dict[ImportFormat, dict[str, Maker]] = {
    "saelens": {
        "standard": _saelens("StandardSAE"),
        "standard, b_dec not subtracted": _saelens("StandardSAE", apply_b_dec_to_input=False),
        "topk": _saelens("TopKSAE", k=K),
        "topk, rescaled by decoder norms": _saelens(
            "TopKSAE", k=K, rescale_acts_by_decoder_norm=True
        ),
        "topk, layer norm": _saelens("TopKSAE", k=K, normalize_activations="layer_norm"),
        "abstopk": _saelens("AbsTopKSAE", k=K),
        "jumprelu": _saelens("JumpReLUSAE"),
        "gated": _saelens("GatedSAE"),
        "transcoder": _saelens("Transcoder", **_TRANSCODER),
        "skip transcoder": _saelens("SkipTranscoder", **_TRANSCODER),
        "jumprelu transcoder": _saelens("JumpReLUTranscoder", **_TRANSCODER),
        "jumprelu skip transcoder": _saelens("JumpReLUSkipTranscoder", **_TRANSCODER),
    },
    "dictionary_learning": {
        "AutoEncoder": _dictionary("AutoEncoder"),
        "AutoEncoderNew": _dictionary("AutoEncoderNew"),
        "GatedAutoEncoder": _dictionary("GatedAutoEncoder"),
        "JumpReluAutoEncoder": _dictionary("JumpReluAutoEncoder"),
        "AutoEncoderTopK": _dictionary("AutoEncoderTopK", "trainers.top_k", k=K),
        "BatchTopKSAE": _dictionary("BatchTopKSAE", _BATCH, k=K),
        "MatryoshkaBatchTopKSAE": _dictionary(
            "MatryoshkaBatchTopKSAE", _MATRYOSHKA, k=K, group_sizes=[32, 64]
        ),
    },
    "sparsify": {
        "topk": _sparse_coder(),
        "transcoder": _sparse_coder(transcode=True),
        "transcoder, skip": _sparse_coder(transcode=True, skip_connection=True),
    },
    "gemma_scope": {
        "params.npz": _released("JumpReLUSAE", "gemma_2_sae_huggingface_loader", _write_gemma_scope)
    },
    "gemma_scope_2": {
        "SAE": _released(
            "JumpReLUSAE", "gemma_3_sae_huggingface_loader", _write_gemma_scope_2(skip=False)
        ),
        "skip transcoder": _released(
            "JumpReLUSkipTranscoder",
            "gemma_3_sae_huggingface_loader",
            _write_gemma_scope_2(skip=True),
        ),
    },
    "llama_scope": {
        "jumprelu": _released(
            "JumpReLUSAE", "llama_scope_sae_huggingface_loader", _write_llama_scope
        )
    },
}
