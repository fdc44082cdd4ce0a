from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.fakes.tiny_models import CPU, save_tokenizer

from saeserve.errors import SpecError
from saeserve.harvest.language_model import LanguageModel


def refusal(folder: Path, gguf_file: str | None = None) -> SpecError:
    with pytest.raises(SpecError) as caught:
        LanguageModel.load(folder, gguf_file, CPU, "float32")
    assert caught.value.remedy
    return caught.value


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "absent")
    assert error.field == "language_model.path"
    assert "absent is not a folder" in str(error)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    error = refusal(tmp_path)
    assert "pytorch_model.bin" in str(error)
    assert error.remedy == "convert the model to safetensors or GGUF"


def test_folder_with_gguf_only_asks_for_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert refusal(tmp_path).remedy == "set gguf_file"
    assert "its GGUF files: model.gguf" in str(refusal(tmp_path, "other.gguf"))


@pytest.mark.parametrize("name", ["../model.gguf", "sub/model.gguf", "weights.bin"])
def test_gguf_file_is_a_plain_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert refusal(tmp_path, name).field == "language_model.gguf_file"


def test_damaged_gguf_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model at all")
    assert "cannot be read" in str(refusal(tmp_path, "model.gguf"))


def test_damaged_safetensors_is_a_typed_error(model_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(model_root / "tiny", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "the model in cut cannot be read" in str(refusal(folder))


def test_remote_code_is_not_run(model_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(model_root / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('remote code ran')\n")
    assert "cannot be read" in str(refusal(folder))
