"""Labels that a collect job gives features of which it is known what they fire on: a planted
dictionary reads a tiny language model's embeddings, so that a row depends on its token alone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.fakes.tiny_models import WORDS, listed, save_model, tiny_llama
from tests.fakes.workshop import Workshop
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.export import format as exports
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.heldout import Heldout
from saeserve.core.features.rows import RowSource
from saeserve.core.features.schema import DATABASE_FILE
from saeserve.core.formats.model import ModelConfig, ReluActivation, TensorSource
from saeserve.core.labels.text import Kind, unpack
from saeserve.worker.order import ExitCode
from saeserve.worker.report import Report

SITE = "resid_pre.0"
SIZES = (3, 1, 0, 31)
"""On how many different tokens each planted feature fires."""
COLLECT = {"model": "planted", "dataset": "acts", "logits": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "lm").mkdir()
    save_model(tiny_llama(), root / "lm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 30)) for _ in range(80)]
    (root / "text.txt").write_text("\n".join(lines))
    return root


def harvested(shop: Workshop, root: Path, heldout_fraction: float = 0.4) -> Workshop:
    """A data set of embeddings, and the planted dictionary."""
    shop.roots = {"r": root}
    spec: dict[str, Any] = {
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text.txt", "format": "lines"}],
        "sites": [{"hook": "resid_pre", "layer": 0}],
        "context_length": 32,
        "dtype": "float32",
        "shard_rows": 500,
        "dataset": "acts",
        "heldout_fraction": heldout_fraction,
    }
    assert shop.submit("h-1", "harvest", spec) is ExitCode.FINISHED
    model, _ = planted()
    exports.save_model(model, root / "model")
    shop.models.publish("planted", "j-planted", 0, root / "model")
    return shop


def planted() -> tuple[InferenceModel, list[set[int]]]:
    """The dictionary, and the tokens on which each of its features fires: those furthest along a
    random direction."""
    embeddings_VD: Tensor = cast("Any", tiny_llama()).get_input_embeddings().weight.detach()
    directions_FD = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    W_dec = torch.nn.functional.normalize(directions_FD, dim=1)
    along_FV = W_dec @ embeddings_VD.T
    tokens: list[set[int]] = []
    b_enc = torch.zeros(4)
    for feature, size in enumerate(SIZES):
        order = along_FV[feature].argsort(descending=True)
        tokens.append(set(listed(order[:size])))
        high = along_FV[feature, order[size - 1]] if size else along_FV[feature].max() + 2
        b_enc[feature] = -(high + along_FV[feature, order[size]]) / 2
    source = TensorSource(name=SITE, offset=0, d=16)
    config = ModelConfig(
        architecture="relu",
        d_in=16,
        d_out=16,
        d_sae=4,
        inputs=(source,),
        outputs=(source,),
        activation=ReluActivation(),
    )
    model = InferenceModel(
        config,
        W_enc=W_dec.T.contiguous(),
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=torch.zeros(16),
        threshold=None,
        centre=torch.zeros(16),
        frequency=torch.zeros(4),
        maximum=torch.zeros(4),
    )
    return model, tokens


def bundle_of(shop: Workshop, job: str) -> FeatureBundle:
    return FeatureBundle.open(shop.bench.ledger.store.path(shop.output(job).exported))


def label_rows(shop: Workshop, job: str) -> list[tuple[object, ...]]:
    path = shop.bench.ledger.store.path(shop.output(job).exported) / DATABASE_FILE
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = ("labels", "other_labels")
        return [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]


def heldout_of(shop: Workshop, *, seed: int = 0, max_rows: int = 0) -> Heldout:
    dataset = ShardedDataset.open(shop.bench.datasets.get("acts").folder)
    return Heldout(RowSource(dataset, (SITE,), planted()[0], 5.0), max_rows, seed)


def test_planted_token_sets_are_found_with_precision_and_recall_1(
    shop: Workshop, root: Path
) -> None:
    harvested(shop, root)
    assert shop.submit("c-1", "collect", COLLECT) is ExitCode.FINISHED
    tokens = planted()[1]
    scored = heldout_of(shop).texts(1, lambda: None)
    scored_tokens = np.concatenate([text.tokens_T[text.row_N] for text in scored])
    with bundle_of(shop, "c-1") as bundle:
        entry = bundle.manifest.labels
        features = [bundle.feature(number) for number in range(4)]
    assert entry is not None
    assert (entry.definition, entry.by, entry.features) == ("label/1", "document", 3)
    assert entry.scored_rows == len(scored_tokens) > 300
    for number in (0, 1):
        label = features[number].label
        assert label is not None
        assert [unpack(key)[0] for key in label.patterns] == [Kind.TOKEN] * len(tokens[number])
        assert {unpack(key)[2] for key in label.patterns} == tokens[number]
        assert (label.precision.value, label.recall.value) == (1, 1)
        assert label.recall.n == np.isin(scored_tokens, list(tokens[number])).sum() > 0
        assert all(WORDS[token - 2] in label.text for token in tokens[number])
    assert features[2].label is None
    assert features[2].other_labels == ()
    # Examples do not show all of 31 tokens: what is found is right, and what is missing is said.
    wide = features[3].label
    assert wide is not None
    assert wide.precision.value == 1
    assert 0.2 < wide.recall.value < 0.8
    assert wide.recall.high < 0.9
    assert {each.source for each in features[3].other_labels} == {"top_tokens", "promoted"}
    assert shop.output("c-1").metrics["labelled_fraction"] == 0.75


def test_halves_are_of_whole_documents_and_hold_each_row_once(shop: Workshop, root: Path) -> None:
    harvested(shop, root)
    heldout = heldout_of(shop)
    manifest = heldout.source.dataset.manifest
    sizes = [sum(text.row_N.size for text in heldout.texts(half, lambda: None)) for half in (0, 1)]
    assert sum(sizes) == manifest.heldout_rows
    assert min(sizes) > 0.4 * sum(sizes)
    other = heldout_of(shop, seed=1).texts(0, lambda: None)
    assert [text.row_N.tolist() for text in other] != [
        text.row_N.tolist() for text in heldout.texts(0, lambda: None)
    ]
    few = heldout_of(shop, max_rows=100)
    assert sum(text.row_N.size for half in (0, 1) for text in few.texts(half, lambda: None)) == 100


def test_a_job_stopped_while_it_labels_goes_on_to_the_same_labels(
    shop: Workshop, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvested(shop, root)
    spec = COLLECT | {"max_tokens": 1000}
    assert shop.submit("c-1", "collect", spec) is ExitCode.FINISHED
    log = Report.log

    def logging(report: Report, message: str) -> None:
        log(report, message)
        if message.startswith("labelling"):
            shop.stop.set()

    with monkeypatch.context() as patched:
        patched.setattr(Report, "log", logging)
        assert shop.submit("c-2", "collect", spec) is ExitCode.STOPPED
    shop.stop.clear()
    assert shop.run("c-2") is ExitCode.FINISHED
    assert label_rows(shop, "c-2") == label_rows(shop, "c-1") != []
    with bundle_of(shop, "c-1") as first, bundle_of(shop, "c-2") as second:
        assert second.manifest == first.manifest.model_copy(update={"job": "c-2"})


def test_without_rows_held_out_the_bundle_has_no_labels_and_the_job_says_so(
    shop: Workshop, root: Path
) -> None:
    harvested(shop, root, heldout_fraction=0)
    assert shop.submit("c-1", "collect", COLLECT) is ExitCode.FINISHED
    (warning,) = shop.output("c-1").warnings
    assert warning.code == "NO_LABELS"
    assert "holds no rows out" in warning.message
    assert shop.submit("c-2", "collect", COLLECT | {"label_tokens": 0}) is ExitCode.FINISHED
    assert shop.output("c-2").warnings == ()
    for job in ("c-1", "c-2"):
        assert label_rows(shop, job) == []
        with bundle_of(shop, job) as bundle:
            assert bundle.manifest.labels is None
