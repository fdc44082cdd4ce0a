"""What each format means, against its library's formula written here in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes import peers
from tests.fakes.peers import D_SAE, D, K, assert_same, read, rows, weights
from torch import Tensor

from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.registry import import_model
from saeserve.core.specs.interchange import ImportFormat
from saeserve.errors import FormatError


def doubled(seed: int = 0) -> dict[str, Tensor]:
    return {name: value.double() for name, value in weights(seed).items()}


def without_threshold() -> dict[str, Tensor]:
    return {name: value for name, value in weights().items() if name != "threshold"}


def top(h_BF: Tensor, k: int = K) -> Tensor:
    values, indices = h_BF.topk(k, dim=1)
    return torch.zeros_like(h_BF).scatter(1, indices, values.relu())


@pytest.mark.parametrize("subtracts", [True, False])
def test_a_jumprelu_of_saelens(tmp_path: Path, subtracts: bool) -> None:
    w, x_BD = doubled(), rows()
    peers.write_saelens(tmp_path, weights(), apply_b_dec_to_input=subtracts)
    h_BF = (x_BD.double() - w["b_dec"] * subtracts) @ w["W_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    imported = read(tmp_path, "saelens")
    assert_same(imported, f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)
    lineage = imported.model.config.lineage
    assert lineage.source == "resid_post.8"
    conventions = lineage.spec["conventions"]
    assert isinstance(conventions, dict)
    assert ("not subtracted" in conventions["b_dec"]) is not subtracts


@pytest.mark.parametrize("by_norm", [True, False])
def test_a_topk_selects_as_its_library_does(tmp_path: Path, by_norm: bool) -> None:
    """Decoder norms differ by a factor of three: whether they count changes what is selected."""
    w, x_BD = doubled(), rows()
    changes = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": by_norm}
    peers.write_saelens(tmp_path, without_threshold(), **changes)
    norms_F = w["W_dec"].square().sum(1).sqrt()
    h_BF = (x_BD.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    f_BF = top(h_BF * norms_F) if by_norm else top(h_BF)
    decoded = (f_BF / norms_F if by_norm else f_BF) @ w["W_dec"] + w["b_dec"]
    imported = read(tmp_path, "saelens")
    assert_same(imported, f_BF, decoded, x_BD)
    activation = imported.model.config.activation
    assert activation.kind == "topk"
    assert activation.weighted is not by_norm


def test_unit_rows_need_no_weights_to_select(tmp_path: Path) -> None:
    tensors = without_threshold()
    tensors["W_dec"] = tensors["W_dec"] / tensors["W_dec"].square().sum(1).sqrt()[:, None]
    peers.write_saelens(tmp_path, tensors, architecture="topk", k=K)
    assert read(tmp_path, "saelens").model.selection is None


def test_a_negative_threshold_acts_as_zero(tmp_path: Path) -> None:
    tensors = weights()
    tensors["threshold"] = torch.full((D_SAE,), -2.0)
    peers.write_saelens(tmp_path, tensors, apply_b_dec_to_input=False)
    w, x_BD = doubled(), rows()
    f_BF = (x_BD.double() @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(read(tmp_path, "saelens"), f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)


def test_a_gated_model_is_a_threshold_model(tmp_path: Path) -> None:
    w, x_BD = doubled(), rows()
    draws = torch.Generator().manual_seed(5)
    gate = {
        name: torch.randn(D_SAE, generator=draws) for name in ("gate_bias", "mag_bias", "r_mag")
    }
    linear = {"encoder.weight": weights()["W_enc"].T, "decoder.weight": weights()["W_dec"].T}
    state = {**linear, **gate, "decoder_bias": weights()["b_dec"]}
    peers.write_dictionary(tmp_path, "GatedAutoEncoder", state, layer=2)
    pre_BF = (x_BD.double() - w["b_dec"]) @ w["W_enc"]
    magnitude_BF = (gate["r_mag"].double().exp() * pre_BF + gate["mag_bias"]).relu()
    f_BF = magnitude_BF * (pre_BF + gate["gate_bias"].double() > 0)
    imported = read(tmp_path, "dictionary_learning")
    assert_same(imported, f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)
    assert imported.model.config.inputs[0].name == "resid_post.2"


@pytest.mark.parametrize("threshold", [0.4, -1.0])
def test_a_batchtopk_infers_by_its_threshold(tmp_path: Path, threshold: float) -> None:
    w, x_BD = doubled(), rows()
    state = {
        "encoder.weight": weights()["W_enc"].T,
        "encoder.bias": weights()["b_enc"],
        "decoder.weight": weights()["W_dec"].T,
        "b_dec": weights()["b_dec"],
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(threshold),
    }
    peers.write_dictionary(tmp_path, "BatchTopKSAE", state, k=K)
    h_BF = ((x_BD.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    f_BF = h_BF * (h_BF > threshold)
    imported = read(tmp_path, "dictionary_learning")
    assert_same(imported, f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)


def test_sparsify_holds_its_decoder_as_rows(tmp_path: Path) -> None:
    """SAELens's own importer transposes W_dec and forgets that b_dec is subtracted."""
    w, x_BD = doubled(), rows()
    tensors = {"encoder.weight": weights()["W_enc"].T, "encoder.bias": weights()["b_enc"]}
    tensors |= {"W_dec": weights()["W_dec"], "b_dec": weights()["b_dec"]}
    peers.write_safetensors(tmp_path / "sae.safetensors", tensors)
    config = {"activation": "topk", "d_in": D, "expansion_factor": 3, "num_latents": 0, "k": K}
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "transcode": False}))
    f_BF = top((x_BD.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    imported = read(tmp_path, "sparsify")
    assert_same(imported, f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)


@pytest.mark.parametrize("embedding", [False, True])
def test_gemma_scope(tmp_path: Path, embedding: bool) -> None:
    """Embedding SAEs of the release take rows divided by sqrt(d)."""
    place = "embedding" if embedding else "layer_7"
    folder = tmp_path / "gemma-scope-2b-pt-res" / place / "width_16k"
    folder.mkdir(parents=True)
    arrays = {name: value.numpy() for name, value in weights().items()}
    np.savez(folder / "params.npz", **arrays)  # pyright: ignore[reportArgumentType] - numpy's own keyword might be among them
    w, x_BD = doubled(), rows()
    scale = 1 / math.sqrt(D) if embedding else 1.0
    h_BF = scale * x_BD.double() @ w["W_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    decoded = f_BF @ w["W_dec"] / scale + w["b_dec"] / scale
    assert_same(read(folder, "gemma_scope"), f_BF, decoded, x_BD)


def test_gemma_scope_2_with_a_skip_connection(tmp_path: Path) -> None:
    tensors = {name.replace("W_", "w_"): v for name, v in weights(d_out=5).items()}
    skip_DO = torch.randn(D, 5, generator=torch.Generator().manual_seed(1))
    tensors["affine_skip_connection"] = skip_DO
    peers.write_safetensors(tmp_path / "params.safetensors", tensors)
    config = {"architecture": "jump_relu", "hf_hook_point_in": "a", "hf_hook_point_out": "b"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "affine_connection": True}))
    imported = read(tmp_path, "gemma_scope_2")
    w = {name: value.double() for name, value in tensors.items()}
    x_BD = rows()
    h_BF = x_BD.double() @ w["w_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    decoded = f_BF @ w["w_dec"] + w["b_dec"] + x_BD.double() @ skip_DO.double()
    assert_same(imported, f_BF, decoded, x_BD)
    assert imported.model.config.transcodes


@pytest.mark.parametrize(("norm_in", "norm_out"), [(5.0, 5.0), (5.0, 0.5)])
def test_llama_scope_folds_both_norms(tmp_path: Path, norm_in: float, norm_out: float) -> None:
    """Its own order: norms into the weights, decoder norms into features, then the threshold."""
    w, x_BD = doubled(), rows()
    tensors = {"encoder.weight": weights()["W_enc"].T, "encoder.bias": weights()["b_enc"]}
    tensors |= {"decoder.weight": weights()["W_dec"].T, "decoder.bias": weights()["b_dec"]}
    peers.write_safetensors(tmp_path / "checkpoints" / "final.safetensors", tensors)
    config = {"d_model": D, "d_sae": D_SAE, "jump_relu_threshold": 0.6}
    norms = {"dataset_average_activation_norm": {"in": norm_in, "out": norm_out}}
    (tmp_path / "hyperparams.json").write_text(json.dumps({**config, **norms}))
    scale_in, scale_out = math.sqrt(D) / norm_in, math.sqrt(D) / norm_out
    raw_BF = x_BD.double() @ w["W_enc"] + w["b_enc"] / scale_in
    W_dec_FO = w["W_dec"] * scale_in / scale_out
    keep_BF = raw_BF * W_dec_FO.square().sum(1).sqrt() > 0.6
    decoded = (raw_BF * keep_BF) @ W_dec_FO + w["b_dec"] / scale_out
    # The foreign feature is that of scaled rows, as the weights in the file compute it.
    imported = read(tmp_path, "llama_scope")
    assert_same(imported, raw_BF * keep_BF * scale_in, decoded, x_BD)


def test_an_openai_relu_model(tmp_path: Path) -> None:
    w, x_BD = doubled(), rows()
    state: dict[str, object] = {
        "pre_bias": weights()["b_dec"],
        "latent_bias": weights()["b_enc"],
        "encoder.weight": weights()["W_enc"].T,
        "decoder.weight": weights()["W_dec"].T,
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "activation": "ReLU",
    }
    path = tmp_path / "model.pt"
    torch.save(state, path)
    f_BF = ((x_BD.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert_same(read(path, "openai"), f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)
    assert_same(read(tmp_path, "openai"), f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)


@pytest.mark.parametrize("post", ["ReLU", "Identity"])
def test_an_openai_topk_model_normalises_rows(tmp_path: Path, post: str) -> None:
    """Unbiased deviation, epsilon outside of the root; undone by the deviation alone."""
    w, x_BD = doubled(), rows()
    state: dict[str, object] = {
        "pre_bias": weights()["b_dec"],
        "latent_bias": weights()["b_enc"],
        "encoder.weight": weights()["W_enc"].T,
        "decoder.weight": weights()["W_dec"].T,
        "activation": "TopK",
        "activation_state_dict": {"k": K, "postact_fn": post},
    }
    torch.save(state, tmp_path / "model.pt")
    mean_B1 = x_BD.double().mean(1, keepdim=True)
    deviation_B1 = x_BD.double().std(1, keepdim=True)
    normal_BD = (x_BD.double() - mean_B1) / (deviation_B1 + 1e-5)
    h_BF = (normal_BD - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    values, indices = h_BF.topk(K, dim=1)
    kept = values.relu() if post == "ReLU" else values
    f_BF = torch.zeros_like(h_BF).scatter(1, indices, kept)
    decoded = (f_BF @ w["W_dec"] + w["b_dec"]) * deviation_B1 + mean_B1
    imported = read(tmp_path, "openai")
    assert_same(imported, f_BF, decoded, x_BD)
    assert imported.model.config.row_norm.kind == "layer_norm"


def test_sixteen_bit_files_are_read(tmp_path: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in weights().items()}
    peers.write_saelens(tmp_path, tensors)
    w, x_BD = {name: value.double() for name, value in tensors.items()}, rows()
    h_BF = (x_BD.double() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    f_BF = h_BF.relu() * (h_BF > w["threshold"])
    assert_same(read(tmp_path, "saelens"), f_BF, f_BF @ w["W_dec"] + w["b_dec"], x_BD)


def test_the_source_can_be_named(tmp_path: Path) -> None:
    peers.write_saelens(tmp_path, weights())
    config = read(tmp_path, "saelens", source="mlp_out.3").model.config
    assert [source.name for source in config.inputs + config.outputs] == ["mlp_out.3"] * 2
    assert config.lineage.source == "mlp_out.3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "'temporal' is not imported"),
        ({"architecture": "topk", "k": 0}, "k is not a positive whole number"),
        ({"architecture": "topk", "k": 99}, "exceeds d_sae = 24"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations"),
        ({"metadata": {"sae_lens_version": "six"}}, "sae_lens_version is not a release"),
        ({"metadata": {"hook_name": "blocks.8.hook_z", "hook_head_index": -1}}, "index of a head"),
        ({"d_out": D + 1}, "d_out is not d_in"),
        ({"d_in": "wide"}, "d_in is of another type"),
        ({"d_in": 9}, "d_in is 9 elsewhere"),
        ({"d_sae": None}, "d_sae is missing"),
        ({"architecture": "standard"}, "'threshold' does not belong"),
        ({"architecture": "transcoder"}, "apply_b_dec_to_input"),
    ],
)
def test_configs_that_cannot_be_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    tensors = without_threshold() if changes.get("architecture") == "topk" else weights()
    peers.write_saelens(tmp_path, tensors, **changes)
    with pytest.raises(FormatError, match=message):
        read(tmp_path, "saelens")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("saelens", "no cfg.json"),
        ("dictionary_learning", "no config.json"),
        ("sparsify", "no cfg.json"),
        ("gemma_scope", "no params.npz"),
        ("gemma_scope_2", "no config.json"),
        ("llama_scope", "no hyperparams.json"),
        ("openai", "0 files that end in .pt"),
    ],
)
def test_an_empty_folder_is_no_model(tmp_path: Path, format: ImportFormat, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(tmp_path, format)


def test_a_latent_without_direction_cannot_take_part_in_the_top_k(tmp_path: Path) -> None:
    tensors = without_threshold()
    tensors["W_dec"][4] = 0.0
    peers.write_saelens(tmp_path, tensors, architecture="topk", k=K)
    with pytest.raises(FormatError, match="latent 4"):
        read(tmp_path, "saelens")


def sparsify(folder: Path, **changes: object) -> Path:
    tensors = {"encoder.weight": weights()["W_enc"].T, "encoder.bias": weights()["b_enc"]}
    tensors |= {"W_dec": weights()["W_dec"], "b_dec": weights()["b_dec"]}
    peers.write_safetensors(folder / "sae.safetensors", tensors)
    config = {"d_in": D, "expansion_factor": 3, "num_latents": 0, "k": K, "multi_topk": False}
    (folder / "cfg.json").write_text(json.dumps({**config, "skip_connection": False, **changes}))
    return folder


@pytest.mark.parametrize("transcodes", [True, False])
@pytest.mark.parametrize("hook", ["layers.5.mlp", "layers.5.mlp/seed3"])
def test_the_run_s_config_above_says_whether_it_transcodes(
    tmp_path: Path, hook: str, transcodes: bool
) -> None:
    folder = sparsify(tmp_path / hook)
    run = {"sae": {"k": K}, "transcode": transcodes, "model": "m", "hookpoints": ["layers.5.mlp"]}
    (tmp_path / "config.json").write_text(json.dumps(run))
    config = read(folder, "sparsify").model.config
    names = (config.inputs[0].name, config.outputs[0].name)
    assert names == (("mlp_in.5", "mlp_out.5") if transcodes else ("mlp_out.5", "mlp_out.5"))
    assert config.lineage.spec["run_config"] == run
    assert config.lineage.spec["hook_name"] == "layers.5.mlp"
    assert config.lineage.warnings == ()


@pytest.mark.parametrize("text", ['{"model_type": "llama", "transcode": true}', "{", "[]"])
def test_another_config_above_is_not_the_run_s(tmp_path: Path, text: str) -> None:
    folder = sparsify(tmp_path / "layers.5.mlp")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match="autoencoders and transcoders alike"):
        read(folder, "sparsify")


def test_the_run_s_config_names_the_only_hook(tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "mine", activation="topk", transcode=False)
    run: dict[str, object] = {"sae": {}, "transcode": False, "hookpoints": ["layers.9.mlp"]}
    (tmp_path / "config.json").write_text(json.dumps(run))
    assert read(folder, "sparsify").model.config.inputs[0].name == "mlp_out.9"


@pytest.mark.parametrize(
    ("target", "transcodes"), [("mlp_out.5", False), ("mlp_out.6", True), ("resid_mid.5", True)]
)
def test_a_target_settles_what_the_files_leave_open(
    tmp_path: Path, target: str, transcodes: bool
) -> None:
    folder = sparsify(tmp_path / "layers.5.mlp")
    config = import_model(ForeignFiles.at(folder), "sparsify", target=target).model.config
    assert config.transcodes is transcodes
    assert config.outputs[0].name == target
    assert config.lineage.warnings == ()


@pytest.mark.parametrize(("transcode", "target"), [(True, "mlp_in.5"), (False, "mlp_out.6")])
def test_a_target_that_the_files_contradict_is_refused(
    tmp_path: Path, transcode: bool, target: str
) -> None:
    folder = sparsify(tmp_path / "layers.5.mlp", activation="topk", transcode=transcode)
    with pytest.raises(FormatError, match=r"contradicts"):
        import_model(ForeignFiles.at(folder), "sparsify", target=target)


def test_both_readings_of_a_file_stand_in_the_lineage(tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "layers.5.mlp", transcode=True)
    lineage = read(folder, "sparsify").model.config.lineage
    readings = lineage.spec["readings"]
    assert isinstance(readings, list)
    assert "b_dec is subtracted" in readings[0]["taken"]
    assert "b_dec is not subtracted" in readings[0]["other"]
    (warning,) = lineage.warnings
    assert warning.code == "READ_TWO_WAYS"
    assert readings[0]["taken"] in warning.message
    assert readings[0]["other"] in warning.message


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_scaling_factor_of_gemma_scope_must_be_one(tmp_path: Path, factor: float) -> None:
    arrays = {name: value.numpy() for name, value in weights().items()}
    arrays["scaling_factor"] = np.full(D_SAE, factor, np.float32)
    folder = tmp_path / "gemma-scope-2b-pt-res"
    folder.mkdir()
    np.savez(folder / "params.npz", **arrays)  # pyright: ignore[reportArgumentType] - any name is allowed
    if factor == 1.0:
        assert read(folder, "gemma_scope").model.config.d_sae == D_SAE
        return
    with pytest.raises(FormatError, match="scaling_factor is not 1"):
        read(folder, "gemma_scope")


def test_a_bare_file_of_gemma_scope_wants_its_target_named(tmp_path: Path) -> None:
    """Autoencoders and transcoders of one width have the same arrays."""
    arrays = {name: value.numpy() for name, value in weights().items()}
    np.savez(tmp_path / "params.npz", **arrays)  # pyright: ignore[reportArgumentType] - any name is allowed
    with pytest.raises(FormatError, match="does not lie in a folder of its release") as caught:
        read(tmp_path, "gemma_scope")
    assert "name the target" in caught.value.remedy
    for target, transcodes in (("resid_post.3", False), ("mlp_out.3", True)):
        config = import_model(
            ForeignFiles.at(tmp_path), "gemma_scope", "resid_post.3", target
        ).model.config
        assert config.transcodes == transcodes
        assert config.lineage.warnings == ()
