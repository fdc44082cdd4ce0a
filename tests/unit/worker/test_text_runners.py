"""Generate and annotate jobs with a tiny language model and a dictionary of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.small_model import small_model
from tests.fakes.tiny_models import POSITIONS, WORDS, listed, tiny_llama
from tests.fakes.tiny_models import save_model as save_language_model
from tests.fakes.workshop import Workshop

from saeserve.core.export.format import load_model, save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.core.specs.sites import SiteSpec
from saeserve.harvest.language_model import LanguageModel
from saeserve.worker.order import ExitCode

CONTEXT = 16
EDITS = [{"feature": 3, "add": 40.0}, {"feature": 9, "scale": 0.0}]


@pytest.fixture
def ready(shop: Workshop, tmp_path: Path) -> Workshop:
    """A data set of the tiny Llama, and a model `m` of it."""
    root = tmp_path / "root"
    (root / "lm").mkdir(parents=True)
    save_language_model(tiny_llama(), root / "lm")
    shop.roots = {"r": root}
    text = " ".join(WORDS[(7 * i) % 50] for i in range(1200))
    (root / "text.txt").write_text(text)
    spec = {
        "dataset": "acts",
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text.txt"}],
        "sites": [{"hook": "resid_post", "layer": 1}],
        "context_length": CONTEXT,
        "heldout_fraction": 0.0,
    }
    assert shop.submit("h-1", "harvest", spec) is ExitCode.FINISHED
    save_model(small_model(TopKActivation(k=4), d_in=16, d_sae=64), tmp_path / "model")
    shop.models.publish("m", "j-made", 0, tmp_path / "model")
    return shop


def test_texts_are_generated_and_annotated(ready: Workshop, tmp_path: Path) -> None:
    check_generation(ready)
    check_refused_prompts(ready)
    check_annotation(ready, tmp_path)


def check_generation(ready: Workshop) -> None:
    spec: dict[str, Any] = {
        "model": "m",
        "dataset": "acts",
        "prompts": ["w1 w2 w3", "w4"],
        "edits": EDITS,
        "max_new_tokens": 6,
    }
    assert ready.submit("g-1", "generate", spec) is ExitCode.FINISHED
    output = ready.output("g-1")
    assert output.generation is not None
    first, second = output.generation["continuations"]
    assert first["prompt_tokens"] == [0, 3, 4, 5]
    for each in (first, second):
        for text in (each["unsteered"], each["steered"]):
            assert len(text["tokens"]) == len(text["log_probs_steered"]) == 6
            words: list[str] = [WORDS[token - 2] for token in text["tokens"] if 2 <= token < 62]
            assert set(words) <= set(text["text"].split())
        assert each["steered"]["steered_positions"] == len(each["prompt_tokens"]) - 1 + 5
        assert (each["first_steered_position"], each["kl_nats"] > 0) == (1, True)
    assert first["unsteered"]["tokens"] != first["steered"]["tokens"]
    assert output.metrics["prompts"] == 2
    assert ready.submit("g-2", "generate", spec | {"kv_cache": False}) is ExitCode.FINISHED
    slow = ready.output("g-2").generation
    assert slow is not None
    for a, b in zip(output.generation["continuations"], slow["continuations"], strict=True):
        assert (a["steered"]["tokens"], a["unsteered"]) == (b["steered"]["tokens"], b["unsteered"])


def check_refused_prompts(ready: Workshop) -> None:
    spec = {"model": "m", "dataset": "acts", "edits": EDITS, "max_new_tokens": 60}
    prompts = ["w1", "w1 w2 w3 w4 w5"]
    assert ready.submit("g-3", "generate", spec | {"prompts": prompts}) is ExitCode.FAILED
    failure = ready.failure("g-3")
    assert (failure.code, failure.retryable) == ("INVALID_SPEC", False)
    assert "generate.prompts.1: has 6 tokens" in failure.message
    assert f"{POSITIONS} positions" in failure.message
    assert ready.submit("g-4", "generate", spec | {"prompts": [" "]}) is ExitCode.FAILED
    assert "generate.prompts.0: holds no token" in ready.failure("g-4").message


def check_annotation(ready: Workshop, tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(20)]
    spec = {"model": "m", "dataset": "acts", "texts": [" ".join(words[:5])], "features": 3}
    assert ready.submit("a-1", "annotate", spec) is ExitCode.FINISHED
    report = ready.output("a-1").annotation
    assert report is not None
    (text,) = report["texts"]
    assert [token["text"] for token in text["tokens"]] == words[:5]
    lm = LanguageModel.load(tmp_path / "root" / "lm", None, torch.device("cpu"), "float32")
    site = SiteSpec(layer=1)
    x = lm.capture(torch.tensor([[0, 2, 3, 4, 5, 6]]), [site])[site.source][0, 1:]
    f_TF = load_model(ready.model("m").folder).encode_dense(x)
    for token, f_F in zip(text["tokens"], f_TF, strict=True):
        best = f_F.topk(min(3, int((f_F != 0).sum())))
        assert token["features"] == listed(best.indices)
        assert token["values"] == pytest.approx(listed(best.values), rel=1e-4)
    long = spec | {"texts": [" ".join(words)]}
    assert ready.submit("a-2", "annotate", long) is ExitCode.FAILED
    message = ready.failure("a-2").message
    assert "annotate.texts.0: has 20 tokens" in message
    assert f"room for {CONTEXT - 1}" in message
    assert ready.submit("a-3", "annotate", long | {"long_texts": "split"}) is ExitCode.FINISHED
    split = ready.output("a-3").annotation
    assert split is not None
    assert [token["text"] for token in split["texts"][0]["tokens"]] == words
