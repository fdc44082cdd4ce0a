"""The files of a model: read back bit for bit, or refused by name."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tests.fakes.sae import Kind, random_model
from torch import Tensor

from saeserve.core.export import format as model_format
from saeserve.core.export.format import load_model, read_config, save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import CONFIG_FILE, TENSOR_FILE, RowNorm
from saeserve.errors import FormatError, NoSpaceError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(random_model("threshold"), tmp_path)
    return tmp_path


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def _edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    path = folder / TENSOR_FILE
    tensors = {**load(path.read_bytes()), **changes}
    path.write_bytes(save({name: value for name, value in tensors.items() if value is not None}))


def _assert_same(left: InferenceModel, right: InferenceModel) -> None:
    assert left.config == right.config
    assert left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        assert torch.equal(value.view(torch.int32), right.tensors[name].view(torch.int32)), name


@pytest.mark.parametrize("kind", ["topk", "threshold", "relu"])
def test_a_model_is_read_back_bit_for_bit(kind: Kind, tmp_path: Path) -> None:
    model = random_model(kind)
    save_model(model, tmp_path / "new" / "folder")
    _assert_same(load_model(tmp_path / "new" / "folder"), model)


def test_infinite_thresholds_survive(tmp_path: Path) -> None:
    model = random_model("threshold")
    assert model.threshold is not None
    model.threshold[3] = torch.inf
    save_model(model, tmp_path)
    _assert_same(load_model(tmp_path), model)


def test_only_the_two_files_stay(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG_FILE, TENSOR_FILE]


def test_equal_models_have_equal_files(saved: Path, tmp_path: Path) -> None:
    save_model(random_model("threshold"), tmp_path / "again")
    for name in (CONFIG_FILE, TENSOR_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_saving_again_replaces_the_model(saved: Path) -> None:
    other = random_model("topk", seed=1)
    save_model(other, saved)
    _assert_same(load_model(saved), other)


@pytest.mark.parametrize("version", [0, 3, None, "1"])
def test_other_versions_are_refused(saved: Path, version: object) -> None:
    _edit_config(saved, format_version=version)
    with pytest.raises(FormatError, match=f"format_version {version}; this release reads 1"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"d_sae": 0}, "model.d_sae"),
        ({"activation": {"kind": "softmax"}}, "model.activation"),
        ({"activation": {"kind": "topk", "k": 41}}, "k = 41 exceeds d_sae = 40"),
        ({"surprise": 1}, "model.surprise: there is no such field"),
        ({"d_in": 13}, "model.inputs: the sources are 12 wide together, the model 13"),
        ({"outputs": [{"name": "y", "offset": 1, "d": 12}]}, "'y' begins at 1, not at 0"),
        ({"dead_latents": 41}, "41 of 40 latents"),
        ({"row_norm": {"kind": "rms"}}, "model.row_norm.kind"),
        ({"row_norm": {"kind": "layer_norm", "ddof": 2}}, "model.row_norm.ddof"),
        ({"row_norm": {"kind": "layer_norm"}, "skip_connection": True}, "rows are normalised"),
    ],
)
def test_configs_that_make_no_sense_are_refused(
    saved: Path, changes: dict[str, Any], complaint: str
) -> None:
    _edit_config(saved, **changes)
    with pytest.raises(FormatError, match=complaint):
        load_model(saved)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_a_config_that_is_no_json_object_is_refused(saved: Path, content: bytes) -> None:
    (saved / CONFIG_FILE).write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(saved)


def test_an_oversized_config_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_format, "MAX_CONFIG_BYTES", 10)
    with pytest.raises(FormatError, match="exceeds 10 bytes"):
        read_config(saved / "config.json")


@pytest.mark.parametrize("name", [CONFIG_FILE, TENSOR_FILE])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(FormatError, match=name):
        load_model(saved)


@pytest.mark.parametrize("kept", [0, 7, 8, 60, 3000, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: int) -> None:
    path = saved / TENSOR_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match=TENSOR_FILE):
        load_model(saved)


def test_a_forged_header_size_is_refused(saved: Path) -> None:
    path = saved / TENSOR_FILE
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(FormatError, match="header claims"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"b_enc": None}, "tensor b_enc is missing"),
        ({"W_skip": torch.zeros(12, 12)}, "tensor W_skip does not belong to a threshold model"),
        ({"W_enc": torch.zeros(40, 12)}, r"tensor W_enc has shape \[40, 12\], expected \[12, 40\]"),
        ({"b_dec": torch.zeros(12).half()}, "tensor b_dec is F16, expected float32"),
        ({"W_dec": torch.full((40, 12), torch.nan)}, "tensor W_dec holds NaN or infinite"),
        ({"frequency": torch.full((40,), torch.inf)}, "tensor frequency holds NaN or infinite"),
        ({"threshold": torch.full((40,), torch.nan)}, "tensor threshold holds NaN or negative"),
        ({"threshold": torch.full((40,), -0.5)}, "tensor threshold holds NaN or negative"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    saved: Path, changes: dict[str, Tensor | None], complaint: str
) -> None:
    _edit_tensors(saved, **changes)
    with pytest.raises(FormatError, match=complaint):
        load_model(saved)


def test_a_model_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    model = random_model("relu")
    model.W_enc[0, 0] = torch.nan
    with pytest.raises(FormatError, match="tensor W_enc holds NaN"):
        save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_row_norm_is_read_back(tmp_path: Path) -> None:
    model = random_model("relu")
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
    config = model.config.model_copy(update={"row_norm": norm})
    normalised = InferenceModel(config, **model.tensors, threshold=None)
    save_model(normalised, tmp_path)
    _assert_same(load_model(tmp_path), normalised)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_nothing_behind(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(model_format, "save_file", fill)
    with pytest.raises(NoSpaceError, match="full"):
        save_model(random_model("relu"), tmp_path)
    assert list(tmp_path.iterdir()) == []
