"""Files that a deployment publishes or exports, cards included, are read by another."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.small_model import small_model
from tests.fakes.workshop import Workshop

from saeserve.core.export.format import load_model, save_model
from saeserve.core.formats.model import Lineage, TensorSource, TopKActivation
from saeserve.core.specs.run_warning import RunWarning
from saeserve.worker.order import ExitCode

TENSORS, CONFIG = "model.safetensors", "config.json"


LINEAGE = Lineage(
    spec={"d_sae": 20, "preprocess": {"norm_cut": 5.0}},
    dataset="planted",
    dataset_sha256="f" * 64,
    job="j-1",
    code_version="0.1.0",
    metrics={"fvu": 0.25},
    warnings=(RunWarning(code="L0_DENSE", message="many fire"),),
)


@pytest.fixture
def elsewhere(shop: Workshop, tmp_path: Path) -> Workshop:
    """A model `m`, and a root `r` with a copy of its version in `m-1`."""
    made = small_model(TopKActivation(k=4))
    source = TensorSource(name="resid_post.0", offset=0, d=6, norm_bound=30.0)
    config = made.config.model_copy(
        update={"inputs": (source,), "outputs": (source,), "lineage": LINEAGE}
    )
    made_here = tmp_path / "made"
    save_model(dataclasses.replace(made, config=config), made_here)
    (made_here / "README.md").write_text("---\ntags: [x]\n---\n# m\n")
    shop.models.publish("m", "j-1", 0, made_here)
    shop.roots = {"r": tmp_path / "root"}
    shutil.copytree(shop.model("m").folder, tmp_path / "root" / "m-1")
    return shop


def imported(shop: Workshop, path: str, format: str, **fields: Any) -> ExitCode:  # noqa: ANN401
    spec = {"model": "back", "path": path, "format": format, **fields}
    return shop.submit("i-1", "import_model", spec)


def test_a_version_of_another_deployment_comes_in_bit_for_bit(elsewhere: Workshop) -> None:
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FINISHED
    sent, came = elsewhere.model("m"), elsewhere.model("back")
    left, right = load_model(sent.folder), load_model(came.folder)
    assert left.tensors.keys() == right.tensors.keys()
    for name, value in left.tensors.items():
        assert torch.equal(value, right.tensors[name]), name
    assert (came.config.inputs, came.config.activation) == (
        sent.config.inputs,
        sent.config.activation,
    )
    old, new = sent.config.lineage, came.config.lineage
    assert (new.dataset, new.dataset_sha256) == (old.dataset, old.dataset_sha256)
    assert (new.metrics, new.warnings) == (old.metrics, old.warnings)
    assert old == LINEAGE
    assert new.job == "i-1"
    assert new.spec["imported_from"] == "saeserve"
    assert new.spec["preprocess"] == old.spec["preprocess"]


def test_a_second_hop_says_its_own_path(elsewhere: Workshop) -> None:
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FINISHED
    shutil.copytree(elsewhere.model("back").folder, elsewhere.roots["r"] / "hop")
    spec = {"model": "again", "path": "r:hop", "format": "saeserve"}
    assert elsewhere.submit("i-2", "import_model", spec) is ExitCode.FINISHED
    made: Any = elsewhere.model("again").config.lineage.spec["import_model"]
    assert made["path"] == "r:hop"


@pytest.mark.parametrize("name", [TENSORS, CONFIG])
def test_a_file_that_the_manifest_does_not_know_is_refused(elsewhere: Workshop, name: str) -> None:
    path = elsewhere.roots["r"] / "m-1" / name
    data = path.read_bytes()
    changed = data.replace(b'"planted"', b'"plonted"', 1) if name == CONFIG else data[:-1] + b"\x01"
    assert changed != data
    path.write_bytes(changed)
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FAILED
    failure = elsewhere.failure("i-1")
    assert failure.code == "BAD_DATA"
    assert f"{name} does not have the sha256" in failure.message
    assert [model.name for model in elsewhere.models.list()] == ["m"]


def test_the_card_may_be_edited_and_the_manifest_left_behind(elsewhere: Workshop) -> None:
    folder = elsewhere.roots["r"] / "m-1"
    (folder / "README.md").write_text("my words")
    (folder / "manifest.json").rename(folder / "kept.json")
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FINISHED


def test_sites_are_those_of_the_config(elsewhere: Workshop) -> None:
    assert imported(elsewhere, "r:m-1", "saeserve", source="resid_post.1") is ExitCode.FAILED
    assert "leave source and target out" in elsewhere.failure("i-1").remedy


def test_an_incomplete_folder_is_refused(elsewhere: Workshop) -> None:
    folder = elsewhere.roots["r"] / "m-1"
    (folder / "manifest.json").unlink()
    (folder / TENSORS).unlink()
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FAILED
    assert TENSORS in elsewhere.failure("i-1").message


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning", "sparsify"])
def test_an_export_is_imported_with_its_card(elsewhere: Workshop, format: str) -> None:
    elsewhere.submit("e-1", "export_model", {"model": "m", "format": format})
    exported = elsewhere.bench.ledger.store.path(f"exports/m/1/{format}")
    assert (exported / "README.md").stat().st_size > 0
    shutil.copytree(exported, elsewhere.roots["r"] / "out")
    assert imported(elsewhere, "r:out", format) is ExitCode.FINISHED
    sent, came = (load_model(elsewhere.model(name).folder) for name in ("m", "back"))
    assert (sent.W_dec - came.W_dec).abs().max() < 1e-6


def test_a_config_of_another_format_version_says_so(elsewhere: Workshop) -> None:
    folder = elsewhere.roots["r"] / "m-1"
    (folder / "manifest.json").unlink()
    config = json.loads((folder / CONFIG).read_text()) | {"format_version": 99}
    (folder / CONFIG).write_text(json.dumps(config))
    assert imported(elsewhere, "r:m-1", "saeserve") is ExitCode.FAILED
    assert "format_version 99" in elsewhere.failure("i-1").message
