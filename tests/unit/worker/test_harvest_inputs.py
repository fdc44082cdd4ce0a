"""A harvest's later attempts use the text and the language model of its first, or fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama
from tests.fakes.workshop import Workshop

from saeserve.worker.order import ExitCode
from saeserve.worker.report import Report

SPEC: dict[str, Any] = {
    "dataset": "acts",
    "language_model": {"path": "r:lm"},
    "texts": [{"path": "r:docs", "format": "lines"}],
    "sites": [{"hook": "resid_post", "layer": 1}],
    "context_length": 16,
    "dtype": "float32",
    "shard_rows": 100,
}
ROWS = 2 * 60 * 20
ALONE, WITH_SHARDS = 0, 500
"""Rows after which the first attempt ends: before any shard is whole, and after several."""


@pytest.fixture
def root(shop: Workshop, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "lm").mkdir(parents=True)
    (root / "docs").mkdir()
    save_model(tiny_llama(), root / "lm")
    rng = np.random.default_rng(0)
    for name in ("a.txt", "b.txt"):
        lines = [" ".join(rng.choice(WORDS, 20)) for _ in range(60)]
        (root / "docs" / name).write_text("\n".join(lines))
    shop.roots = {"r": root}
    return root


def interrupted(shop: Workshop, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first attempt that stops once about so many rows were harvested."""

    def reported(_report: Report, at: int, *_rest: object) -> None:
        if at >= rows:
            shop.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr("saeserve.harvest.run.PROGRESS_SECONDS", 0.0)
        patch.setattr(Report, "metrics", reported)
        assert shop.submit("h-1", "harvest", SPEC) is ExitCode.STOPPED
    shop.stop.clear()


def another_word(root: Path) -> None:
    file = root / "docs" / "b.txt"
    file.write_text(WORDS[0] + file.read_text()[len(file.read_text().split()[0]) :])


def another_order(root: Path) -> None:
    file = root / "docs" / "b.txt"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))


def another_file(root: Path) -> None:
    shutil.copy(root / "docs" / "a.txt", root / "docs" / "c.txt")


def one_file_less(root: Path) -> None:
    (root / "docs" / "b.txt").unlink()


def other_weights(root: Path) -> None:
    file = root / "lm" / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + torch.tensor(1e-3)
    file.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def other_settings(root: Path) -> None:
    file = root / "lm" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 1e-3}))


CHANGES = [
    (another_word, "the text", "r:docs/b.txt"),
    (another_order, "the text", "r:docs/b.txt"),
    (another_file, "the text", "r:docs/c.txt"),
    (one_file_less, "the text", "r:docs/b.txt"),
    (other_weights, "the language model", "r:lm/model.safetensors"),
    (other_settings, "the language model", "r:lm/config.json"),
]


@pytest.mark.parametrize("rows", [ALONE, WITH_SHARDS])
@pytest.mark.parametrize(
    ("change", "what", "named"), CHANGES, ids=[change.__name__ for change, *_ in CHANGES]
)
def test_an_attempt_does_not_go_on_with_other_inputs(
    shop: Workshop,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    what: str,
    named: str,
    rows: int,
) -> None:
    interrupted(shop, rows, monkeypatch)
    change(root)
    assert shop.run("h-1") is ExitCode.FAILED
    failure = shop.failure("h-1", 2)
    assert (failure.code, failure.retryable) == ("DATA_MISMATCH", False)
    assert f"{what} was changed" in failure.message
    assert failure.message.endswith(named)
    assert failure.remedy


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("rows", [ALONE, WITH_SHARDS])
def test_an_attempt_goes_on_where_nothing_was_changed(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    interrupted(shop, rows, monkeypatch)
    assert shop.run("h-1") is ExitCode.FINISHED
    assert shop.output("h-1").metrics["rows"] == ROWS


def test_inputs_of_the_first_attempt_bind_the_third_too(
    shop: Workshop, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(shop, ALONE, monkeypatch)
    shop.stop.set()
    assert shop.run("h-1") is ExitCode.STOPPED
    shop.stop.clear()
    another_word(root)
    assert shop.run("h-1") is ExitCode.FAILED
    assert shop.failure("h-1", 3).code == "DATA_MISMATCH"


def test_a_record_of_the_first_format_is_gone_on_from(
    shop: Workshop, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(shop, WITH_SHARDS, monkeypatch)
    [file] = shop.bench.ledger.store.root.glob("**/harvest.json")
    record = json.loads(file.read_text())
    del record["texts"], record["language_model"]
    file.write_text(json.dumps(record | {"format_version": 1}))
    other_weights(root)  # which that format does not know
    assert shop.run("h-1") is ExitCode.FINISHED
