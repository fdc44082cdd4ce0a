"""A collect job: from a trained model and harvested rows to a bundle that agrees with Encode."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama
from tests.fakes.workshop import Workshop
from tests.unit.worker.test_data_runners import upload
from transformers import LlamaForCausalLM

from saeserve.core.data.dataset import ShardedDataset, take_columns
from saeserve.core.export.format import load_model
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.collecting import Collecting, resume, start
from saeserve.core.features.rows import RowSource
from saeserve.core.features.schema import SEQUENCE_FILE
from saeserve.errors import CheckpointError
from saeserve.worker.order import ExitCode
from saeserve.worker.runners import collect

SITE = "resid_post.2"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "lm").mkdir()
    lm: Any = tiny_llama()
    torch.nn.init.uniform_(lm.model.norm.weight, 0.2, 3.0)
    save_model(lm, root / "lm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 20)) for _ in range(60)]
    (root / "text.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def trained(shop: Workshop, root: Path) -> Workshop:
    """A harvested data set and a model trained on it."""
    shop.roots = {"r": root}
    spec: dict[str, Any] = {
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text.txt", "format": "lines"}],
        "sites": [{"hook": "resid_post", "layer": 2}],
        "context_length": 16,
        "dtype": "float32",
        "shard_rows": 200,
        "dataset": "acts",
    }
    assert shop.submit("h-1", "harvest", spec) is ExitCode.FINISHED
    train = {"dataset": "acts", "d_sae": 64, "source": SITE, "topk": {"k": 4}}
    assert shop.train("j-1", **train) is ExitCode.FINISHED
    return shop


def bundle_of(shop: Workshop, job: str) -> FeatureBundle:
    return FeatureBundle.open(shop.bench.ledger.store.path(shop.output(job).exported))


def codes(shop: Workshop) -> list[tuple[int, int, int, dict[int, float]]]:
    """(sequence, position, token, code) of every row, as Encode gives them."""
    dataset = ShardedDataset.open(shop.bench.datasets.get("acts").folder)
    model = load_model(shop.model("m").folder)
    found: list[tuple[int, int, int, dict[int, float]]] = []
    for index, entry in enumerate(dataset.manifest.shards):
        with dataset.shard(index) as shard:
            x_BD = take_columns(shard, [SITE], np.arange(entry.rows)).float()
            columns = [shard.column(name) for name in ("sequence", "position", "token_id")]
            rows = model.encode(x_BD)
            for row in range(entry.rows):
                part = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
                pairs = zip(rows.latents[part], rows.values[part], strict=True)
                code = {int(latent): float(value) for latent, value in pairs if float(value)}
                sequence, position, token = (int(column[row]) for column in columns)
                found.append((sequence, position, token, code))
    return found


def test_the_bundle_holds_what_encode_gives(trained: Workshop) -> None:
    spec = {"model": "m", "dataset": "acts", "logits": True}
    assert trained.submit("c-1", "collect", spec) is ExitCode.FINISHED
    assert trained.output("c-1").exported == "features/m/1/c-1"
    rows = codes(trained)
    counts = Counter(latent for *_, code in rows for latent in code)
    by_place = {(sequence, position): code for sequence, position, _, code in rows}
    positions: dict[int, list[int]] = {}
    for sequence, position, *_ in rows:
        positions.setdefault(sequence, []).append(position)
    folder = trained.bench.ledger.store.path("features/m/1/c-1")
    starts = {int(row[2]): int(row[0]) for row in np.load(folder / SEQUENCE_FILE)}
    with bundle_of(trained, "c-1") as bundle:
        assert bundle.manifest.model == "m@1"
        assert bundle.manifest.rows + bundle.manifest.left_out == len(rows)
        for number in range(64):
            feature = bundle.feature(number)
            if bundle.manifest.left_out == 0:
                assert feature.summary.count == counts[number]
            for context in (*feature.top, *feature.uniform):
                first = positions[context.sequence][0]
                start = starts[context.sequence]
                place = (context.sequence, first + context.position - start)
                assert by_place[place][number] == context.value
                for offset, value in enumerate(context.activations):
                    near = (place[0], place[1] + offset - context.peak)
                    assert by_place[near].get(number, 0.0) == value
            assert len(feature.neighbours) == 16
            assert len(feature.logits_up) == 10


def test_logits_are_those_of_the_language_models_final_norm(trained: Workshop, root: Path) -> None:
    """By hand: decoder rows, times the norm's weight, times the output embedding."""
    spec = {"model": "m", "dataset": "acts", "logits": True}
    assert trained.submit("c-1", "collect", spec) is ExitCode.FINISHED
    lm = cast("Any", LlamaForCausalLM).from_pretrained(root / "lm")
    assert (lm.model.norm.weight - 1).abs().max() > 0.5
    W_dec_FD = load_model(trained.model("m").folder).W_dec
    with torch.no_grad():
        logit_FV = (W_dec_FD * lm.model.norm.weight) @ lm.lm_head.weight.T
    moved_FV = (logit_FV - logit_FV.mean(1, keepdim=True)).numpy()
    with bundle_of(trained, "c-1") as bundle:
        for number in range(64):
            feature = bundle.feature(number)
            rising = np.sort(moved_FV[number])
            for shown, expected in (
                (feature.logits_up, rising[::-1][:10]),
                (feature.logits_down, rising[:10]),
            ):
                scores = [each.score for each in shown]
                np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
                own = [moved_FV[number, each.token] for each in shown]
                np.testing.assert_allclose(scores, own, rtol=1e-3, atol=1e-4)


def delete(shop: Workshop) -> None:
    shop.models.delete_version("m@1", lambda _: [], force=True)


@pytest.mark.parametrize("when", ["passing", "writing"])
def test_a_version_that_is_deleted_meanwhile_ends_the_job(
    trained: Workshop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "passing":
        monkeypatch.setattr(collect, "CHECKPOINT_S", 0.0)
        figures = collect._figures  # pyright: ignore[reportPrivateUsage] - called in each round

        def deleting(passed: Collecting) -> dict[str, float]:
            if trained.bench.ledger.store.exists("models/m/versions/1/manifest.json"):
                delete(trained)
            return figures(passed)

        monkeypatch.setattr(collect, "_figures", deleting)
    else:
        written = collect.write_bundle

        def write_bundle(*args: Any) -> Any:  # noqa: ANN401 - passed on
            made = written(*args)
            delete(trained)
            return made

        monkeypatch.setattr(collect, "write_bundle", write_bundle)
    spec = {"model": "m", "dataset": "acts"}
    assert trained.submit("c-1", "collect", spec) is not ExitCode.FINISHED
    failure = trained.failure("c-1")
    assert (failure.code, failure.retryable) == ("MODEL_DELETED", False)
    assert "models/m/versions/1 was deleted while" in failure.message
    assert trained.bench.ledger.store.names("features/m/1") == []


def source_of(shop: Workshop, *, max_rows: int = 0) -> RowSource:
    dataset = ShardedDataset.open(shop.bench.datasets.get("acts").folder)
    model = load_model(shop.model("m").folder)
    return RowSource(dataset, (SITE,), model, 5.0, max_rows, block_rows=120)


def finished(passed: Collecting) -> tuple[dict[str, bytes], bytes, bytes]:
    for _ in passed.run():
        pass
    tokens, sequences = passed.tokens()
    state = {name: array.tobytes() for name, array in passed.state.arrays().items()}
    return state, tokens.tobytes(), sequences.tobytes()


def test_a_resumed_pass_has_the_bits_of_one_that_was_not_stopped(
    trained: Workshop, tmp_path: Path
) -> None:
    source = source_of(trained)
    whole = finished(start(source, 100, 3))
    stopped = start(source, 100, 3)
    run = stopped.run()
    for _ in range(3):
        next(run)
    assert 0 < stopped.rows_done < source.dataset.manifest.rows
    stopped.save(tmp_path)
    assert finished(resume(source, 100, 3, tmp_path)) == whole
    with pytest.raises(CheckpointError, match="does not hold this pass"):
        resume(source, 100, 4, tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="does not hold this pass"):
        resume(source, 100, 3, tmp_path)


def test_a_pass_ends_with_the_sequence_that_reaches_max_tokens(
    trained: Workshop, tmp_path: Path
) -> None:
    source = source_of(trained, max_rows=130)
    passed = start(source, 100, 0)
    whole = finished(passed)
    passed.save(tmp_path)
    assert finished(resume(source, 100, 0, tmp_path)) == whole
    tokens, sequences = passed.tokens()
    assert 130 <= passed.rows_done < 130 + 16
    assert len(tokens) == passed.rows_done
    assert int(passed.state.token_count_V.sum()) == passed.rows_kept
    assert sequences[-1, 0] < len(tokens)


def test_an_ingested_data_set_is_refused(trained: Workshop) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    upload(trained, "plain", rows)
    spec = {"model": "m", "dataset": "plain"}
    assert trained.submit("i-1", "ingest", {"dataset": "plain"}) is ExitCode.FINISHED
    assert trained.submit("c-1", "collect", spec) is not ExitCode.FINISHED
    assert "was not harvested from text" in trained.failure("c-1").message
