"""Data sets that leave out tokens: judged on the contexts and rows that they were harvested of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes.tiny_models import WORDS, save_model, save_tokenizer, tiny_llama
from tests.fakes.workshop import Workshop

from saeserve.worker.order import ExitCode
from saeserve.worker.report import Report

SPEC: dict[str, Any] = {
    "dataset": "acts",
    "language_model": {"path": "r:lm"},
    "texts": [{"path": "r:text.txt", "format": "lines"}],
    "sites": [{"hook": "resid_post", "layer": 1}],
    "context_length": 16,
    "dtype": "float32",
    "heldout_fraction": 0.3,
    "shard_rows": 300,
}
DROPPING: dict[str, Any] = {
    "packing": "joined",
    "special_token_rows": "drop",
    "position_start": 2,
    "position_stop": -1,
}


@pytest.fixture
def ready(shop: Workshop, tmp_path: Path) -> Workshop:
    root = tmp_path / "root"
    (root / "lm").mkdir(parents=True)
    save_model(tiny_llama(), root / "lm")
    save_tokenizer(root / "lm", eos=True)
    rng = np.random.default_rng(0)
    (root / "text.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 20)) for _ in range(120)))
    shop.roots = {"r": root}
    return shop


def test_loss_recovered_and_contexts_of_rows_with_gaps(ready: Workshop) -> None:
    assert ready.submit("h-1", "harvest", SPEC | DROPPING) is ExitCode.FINISHED
    ready.train("j-1", dataset="acts", topk={"k": 1}, d_sae=256)
    spec: dict[str, Any] = {
        "model": "m",
        "dataset": "acts",
        "loss_recovered": {"max_tokens": 10_000},
        "context_features": 3,
        "contexts_per_feature": 2,
    }
    assert ready.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    report = ready.output("e-1").evaluation
    assert report is not None
    manifest = ready.bench.datasets.get("acts").manifest
    assert manifest is not None
    held = [entry for entry in manifest.documents if entry.split == "heldout"]
    # Every token of a context but its BOS is predicted, EOS tokens too: more than there are rows.
    assert report["metrics"]["spliced_positions"] == 21 * len(held) > manifest.heldout_rows
    assert report["metrics"]["kl_nats"] > 0
    for feature in report["features"]:
        for context in feature["contexts"]:
            assert context["token"] in WORDS
            assert context["before"], "the tokens left out are text all the same"
            assert context["after"]


def test_a_data_set_with_contexts_is_published_whole(ready: Workshop) -> None:
    assert ready.submit("h-1", "harvest", SPEC | DROPPING) is ExitCode.FINISHED
    dataset = ready.bench.datasets.get("acts")
    manifest = dataset.manifest
    assert manifest is not None
    assert manifest.contexts
    folder = ready.bench.ledger.store.root / "datasets" / "acts"
    standing = {f"shards/{path.name}" for path in (folder / "shards").iterdir()}
    assert standing == {entry.file for entry in manifest.files}


def test_an_attempt_of_before_these_settings_is_gone_on_from(
    ready: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record lacks the fields, whose defaults do what it did."""

    def reported(_report: Report, at: int, *_rest: object) -> None:
        if at >= 500:
            ready.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr("saeserve.harvest.run.PROGRESS_SECONDS", 0.0)
        patch.setattr(Report, "metrics", reported)
        assert ready.submit("h-1", "harvest", SPEC) is ExitCode.STOPPED
    ready.stop.clear()
    [file] = ready.bench.ledger.store.root.glob("**/harvest.json")
    record = json.loads(file.read_text())
    for name in ("special_token_rows", "position_start", "packing"):
        del record["spec"][name]
    file.write_text(json.dumps(record))
    assert ready.run("h-1") is ExitCode.FINISHED
