"""Transcoders and crosscoders from harvested sites through training, export and evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama
from tests.fakes.workshop import Workshop

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.export.format import load_model
from saeserve.worker.order import ExitCode

SITES = [{"hook": "attn_out", "layer": 1}, {"hook": "resid_post", "layer": 2}]
IN, OUT = "attn_out.1", "resid_post.2"
FORMS: dict[str, dict[str, Any]] = {
    "transcoder": {"source": IN, "target_source": OUT},
    "skip transcoder": {"source": IN, "target_source": OUT, "skip_connection": True},
    "crosscoder": {"sources": [OUT, IN]},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "jumprelu": {"initial_l0": 8, "sparsity_coefficient": 1.0},
}


@pytest.fixture
def harvested(shop: Workshop, tmp_path: Path) -> Workshop:
    """Two sites of one pass, and a data set of one site."""
    root = tmp_path / "root"
    (root / "lm").mkdir(parents=True)
    save_model(tiny_llama(), root / "lm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 20)) for _ in range(60)]
    (root / "text.txt").write_text("\n".join(lines))
    shop.roots = {"r": root}
    spec: dict[str, Any] = {
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text.txt", "format": "lines"}],
        "context_length": 16,
        "dtype": "float32",
        "heldout_fraction": 0.3,
    }
    for name, sites in (("acts", SITES), ("single", SITES[:1])):
        made = spec | {"dataset": name, "sites": sites}
        assert shop.submit(f"h-{name}", "harvest", made) is ExitCode.FINISHED
    return shop


def train(shop: Workshop, job: str, form: str, name: str = "topk", **fields: object) -> ExitCode:
    architecture = {"topk": None, name: ARCHITECTURES[name]}
    spec = {"dataset": "acts", "d_sae": 64, **architecture, **FORMS[form], **fields}
    return shop.train(job, **spec)


def heldout(shop: Workshop, names: list[str]) -> torch.Tensor:
    dataset = ShardedDataset.open(shop.bench.datasets.get("acts").folder)
    blocks = dataset.heldout(names, norm_cut=5.0, max_rows=256, batch=64)
    return torch.cat([block.x_BD for block in blocks])


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_form_is_trained_published_and_evaluated(
    harvested: Workshop, form: str, name: str
) -> None:
    assert train(harvested, "j-1", form, name) is ExitCode.FINISHED
    output, version = harvested.output("j-1"), harvested.model("m")
    model = load_model(version.folder)
    crosses = form == "crosscoder"
    assert [s.name for s in model.config.inputs] == ([OUT, IN] if crosses else [IN])
    assert [s.name for s in model.config.outputs] == ([OUT, IN] if crosses else [OUT])
    assert model.config.skip_connection == (form == "skip transcoder")
    rows_BC = heldout(harvested, [OUT, IN] if crosses else [IN, OUT])
    target_BO = rows_BC if crosses else rows_BC[:, 16:]
    found_BO = model.reconstruct(rows_BC[:, : model.config.d_in])
    spread = (target_BO - target_BO.mean(dim=0)).square().sum()
    fvu = float((target_BO - found_BO).square().sum() / spread)
    assert output.metrics["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert (f"fvu_{OUT}" in output.metrics) == crosses
    spec = {"model": "m", "dataset": "acts", "max_rows": 256, "context_features": 2}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    report = harvested.output("e-1").evaluation
    assert report is not None
    assert report["metrics"]["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert math.isfinite(report["metrics"]["fvu_with_massive"])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_stopped_run_is_resumed_to_the_same_bits(
    harvested: Workshop, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(harvested, "j-1", form, model="undisturbed")
    with monkeypatch.context() as patch:
        harvested.stop_at(15, patch)
        assert train(harvested, "j-2", form, model="disturbed") is ExitCode.STOPPED
    harvested.stop.clear()
    assert harvested.run("j-2") is ExitCode.FINISHED
    bits = [
        (harvested.model(name).folder / "model.safetensors").read_bytes()
        for name in ("undisturbed", "disturbed")
    ]
    assert bits[0] == bits[1]


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"dataset": "single", "sources": [IN, OUT]}, "INVALID_SPEC", "has only attn_out.1"),
        ({"dataset": "single", "target_source": IN}, "INVALID_SPEC", "is the source itself"),
        ({"source": IN, "target_source": "mlp_out.0"}, "DATA_MISMATCH", "no source 'mlp_out.0'"),
        ({"sources": [IN, IN]}, "INVALID_SPEC", "is listed twice"),
    ],
)
def test_what_is_no_form_of_the_data_fails_with_a_reason(
    harvested: Workshop, fields: dict[str, object], code: str, text: str
) -> None:
    assert harvested.train("j-1", **({"dataset": "acts"} | fields)) is ExitCode.FAILED
    failure = harvested.failure("j-1")
    assert (failure.code, failure.retryable) == (code, False)
    assert text in failure.message


def test_what_a_transcoder_cannot_be_judged_on_is_refused(harvested: Workshop) -> None:
    train(harvested, "j-1", "transcoder")
    spec: dict[str, Any] = {"model": "m", "dataset": "single"}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FAILED
    assert f"no source '{OUT}'" in harvested.failure("e-1").message


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_form_is_spliced_at_its_own_sites(harvested: Workshop, form: str) -> None:
    train(harvested, "j-1", form)
    spec: dict[str, Any] = {"model": "m", "dataset": "acts", "loss_recovered": {"max_tokens": 100}}
    assert harvested.submit("e-1", "evaluate", spec) is ExitCode.FINISHED
    report = harvested.output("e-1").evaluation
    assert report is not None
    figures = report["metrics"]
    assert figures["ce_delta_nats"] == pytest.approx(figures["ce_sae"] - figures["ce_clean"])
    assert figures["kl_nats"] > 0
    assert figures["spliced_positions"] >= 100
    assert math.isfinite(figures["loss_recovered_mean"])
