"""What is written for other libraries; `make interop` loads it in the libraries themselves."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from tests.fakes.peers import read
from tests.fakes.sae import Kind, random_form, random_model, random_preprocessing

from saeserve.core.export.fold import Side, fold_between
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage, RowNorm, TensorSource, TopKActivation
from saeserve.core.peers import payload
from saeserve.core.peers.registry import export_model
from saeserve.core.specs.interchange import ExportFormat
from saeserve.errors import DataError, FormatError, NoSpaceError

EXPRESSIBLE: list[tuple[ExportFormat, Kind]] = [
    ("saelens", "topk"),
    ("saelens", "threshold"),
    ("saelens", "relu"),
    ("dictionary_learning", "topk"),
    ("dictionary_learning", "threshold"),
    ("dictionary_learning", "relu"),
    ("sparsify", "topk"),
]


def raw_rows(d: int) -> torch.Tensor:
    return 3 * torch.randn(64, d, generator=torch.Generator().manual_seed(3)) + 1


def assert_agree(left: InferenceModel, right: InferenceModel) -> None:
    x_BD = raw_rows(left.config.d_in)
    for got, expected in (
        (right.encode_dense(x_BD), left.encode_dense(x_BD)),
        (right.reconstruct(x_BD), left.reconstruct(x_BD)),
    ):
        largest = expected.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        assert float(((got - expected).abs() / largest).max()) < 1e-5


@pytest.mark.parametrize(("format", "kind"), EXPRESSIBLE)
def test_what_is_written_is_read_back(tmp_path: Path, format: ExportFormat, kind: Kind) -> None:
    model = random_model(kind)
    export_model(model, format, tmp_path / "out")
    again = read(tmp_path / "out", format).model
    assert_agree(model, again)
    assert again.config.activation == model.config.activation


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("format", "kind"), [("saelens", "threshold"), ("sparsify", "topk")])
def test_transcoders_are_read_back(
    tmp_path: Path, format: ExportFormat, kind: Kind, skip: bool
) -> None:
    model = transcoder(kind, skip=skip)
    export_model(model, format, tmp_path / "out")
    again = read(tmp_path / "out", format).model
    assert_agree(model, again)
    assert again.config.transcodes
    assert again.config.skip_connection is skip


def transcoder(kind: Kind, *, skip: bool = False) -> InferenceModel:
    form = random_form(kind)
    W_skip_OD = torch.randn(12, 12, generator=torch.Generator().manual_seed(4)) if skip else None
    return fold_between(
        dataclasses.replace(form, W_skip_OD=W_skip_OD),
        Side(("resid_post.1",), random_preprocessing(12, 1)),
        Side(("mlp_out.2",), random_preprocessing(12, 2)),
        architecture=kind,
        lineage=Lineage(),
    )


def test_dead_latents_stay_dead(tmp_path: Path) -> None:
    """dictionary_learning divides by decoder norms when it loads an AutoEncoder."""
    form = random_form("relu")
    form.W_dec_FO[3] = 0.0
    side = Side(("x",), random_preprocessing(12, 1))
    model = fold_between(form, side, side, architecture="relu", lineage=Lineage())
    export_model(model, "dictionary_learning", tmp_path / "out")
    state: dict[str, Any] = torch.load(tmp_path / "out" / "ae.pt", weights_only=True)
    norms_F = state["decoder.weight"].square().sum(dim=0).sqrt()
    assert torch.allclose(norms_F, torch.ones_like(norms_F))
    again = read(tmp_path / "out", "dictionary_learning").model
    assert_agree(model, again)


def test_weighted_top_k_goes_back_to_rows_of_their_norms(tmp_path: Path) -> None:
    """As imported from a library whose decoder rows differ in norm, and back into it."""
    base = random_model("topk")
    weight_F = 0.5 + torch.rand(40, generator=torch.Generator().manual_seed(8))
    activation = TopKActivation(k=5, weighted=True)
    config = base.config.model_copy(update={"activation": activation})
    model = dataclasses.replace(base, config=config, selection=weight_F)
    export_model(model, "sparsify", tmp_path / "out")
    written = load((tmp_path / "out" / "sae.safetensors").read_bytes())
    assert torch.allclose(written["W_dec"] * weight_F[:, None], model.W_dec, atol=1e-6)
    again = read(tmp_path / "out", "sparsify").model
    assert again.selection is not None
    assert_agree(model, again)


def changed(model: InferenceModel, **changes: object) -> InferenceModel:
    return dataclasses.replace(model, config=model.config.model_copy(update=changes))


def crosscoder() -> InferenceModel:
    halves = (TensorSource(name="a", offset=0, d=6), TensorSource(name="b", offset=6, d=6))
    return changed(random_model("relu"), inputs=halves, outputs=halves)


def by(post: str) -> InferenceModel:
    return changed(
        random_model("topk"), activation=TopKActivation.model_validate(dict(k=5, post=post))
    )


@pytest.mark.parametrize(
    ("format", "model", "message"),
    [
        ("sparsify", random_model("threshold"), "sparsify .* activation is 'threshold'"),
        ("sparsify", random_model("relu"), "sparsify .* activation is 'relu'"),
        ("sparsify", by("abs"), "activation.post is 'abs'"),
        ("dictionary_learning", by("none"), "activation.post is 'none'"),
        ("dictionary_learning", transcoder("relu"), "dictionary_learning .* transcoder"),
        ("saelens", by("none"), "saelens .* activation.post is 'none'"),
        ("saelens", transcoder("topk"), "no top-k transcoder"),
        ("saelens", crosscoder(), r"crosscoder: inputs and outputs are several sources \(a, b\)"),
        ("dictionary_learning", crosscoder(), "several sources"),
        ("sparsify", crosscoder(), "several sources"),
    ],
)
def test_what_a_format_cannot_hold_is_named(
    tmp_path: Path, format: ExportFormat, model: InferenceModel, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        export_model(model, format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def normalising(kind: Kind = "topk", ddof: int = 1) -> InferenceModel:
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=ddof)
    return changed(random_model(kind), row_norm=norm)


def test_layer_norm_is_written_for_saelens_alone(tmp_path: Path) -> None:
    model = normalising()
    export_model(model, "saelens", tmp_path / "out")
    again = read(tmp_path / "out", "saelens").model
    assert again.config.row_norm == model.config.row_norm
    assert_agree(model, again)
    for format in ("dictionary_learning", "sparsify"):
        with pytest.raises(FormatError, match=r"row_norm.kind is 'layer_norm'"):
            export_model(model, format, tmp_path / format)


def test_another_layer_norm_than_saelens_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="row_norm is"):
        export_model(normalising(ddof=0), "saelens", tmp_path / "out")


def test_magnitudes_are_a_class_of_saelens(tmp_path: Path) -> None:
    export_model(by("abs"), "saelens", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["architecture"] == "abstopk"


def test_saelens_reads_where_the_model_belongs(tmp_path: Path) -> None:
    export_model(random_model("threshold"), "saelens", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert config["apply_b_dec_to_input"] is False
    assert read(tmp_path / "out", "saelens").model.config.lineage.source == "resid_post.1"


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists"):
        export_model(random_model("relu"), "saelens", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(payload, "save_file", fill)
    with pytest.raises(NoSpaceError):
        export_model(random_model("relu"), "saelens", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
