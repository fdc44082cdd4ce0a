from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.fakes.splicing import Splice
from tests.fakes.tiny_models import CPU, POSITIONS, WORDS, listed, save_tokenizer, tiny_llama

from saeserve.core.data.writer import RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError, DataMismatchError, NoSpaceError, SpecError
from saeserve.harvest import run as run_module
from saeserve.harvest.events import (
    HarvestFinished,
    HarvestProgress,
    HarvestResolved,
    HarvestStopped,
)
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.layout import decoder_layers
from saeserve.harvest.rows import forward_rows
from saeserve.harvest.run import resolve_device, run_harvest
from saeserve.harvest.sequences import PAD, TokenSequence
from saeserve.harvest.space import estimate_bytes

Resolve = Callable[[str], Path]


def spec_with(**fields: object) -> HarvestSpec:
    value: dict[str, Any] = {
        "dataset": "tiny",
        "language_model": {"path": "models:tiny"},
        "texts": [{"path": "texts:a.txt", "format": "lines"}],
        "sites": [{"hook": "resid_post", "layer": 1}, {"hook": "mlp_out", "layer": 0}],
        "context_length": 8,
        "dtype": "float32",
        "heldout_fraction": 0.3,
        "shard_rows": 50,
        "batch_sequences": 2,
        "compute_dtype": "float32",
        "device": "cpu",
    }
    return HarvestSpec.parse(value | fields, "harvest")


@pytest.fixture
def text(resolve: Resolve) -> list[str]:
    """30 documents of 1 to 20 words."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(30)]
    resolve("texts:a.txt").write_text("\n".join(lines))
    return lines


def harvest(spec: HarvestSpec, resolve: Resolve, folder: Path) -> DatasetManifest:
    *_, last = run_harvest(spec, resolve, folder, lambda: False)
    assert isinstance(last, HarvestFinished)
    return last.manifest


def rows_of(folder: Path) -> dict[str, torch.Tensor]:
    files = bytes_of(folder)
    shards = [safetensors.torch.load(files[name]) for name in files if name[0].isdigit()]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_rows_are_the_models_activations(
    resolve: Resolve, tmp_path: Path, text: list[str], language_model: LanguageModel
) -> None:
    spec = spec_with()
    manifest = harvest(spec, resolve, tmp_path / "set")
    rows = rows_of(tmp_path / "set")
    assert len(rows["document"]) == manifest.rows == sum(len(line.split()) for line in text)
    seen: list[tuple[int, int]] = []
    for sequence in sorted(set(listed(rows["sequence"]))):
        mine = rows["sequence"] == sequence
        tokens = torch.cat([torch.tensor([0]), rows["token_id"][mine].long()])
        captured = language_model.capture(tokens[None], spec.sites)
        for source, values in captured.items():
            torch.testing.assert_close(rows[source][mine], values[0, 1:], rtol=1e-4, atol=1e-5)
        assert listed(rows["position"][mine]) == list(range(1, len(tokens)))
        seen.append((int(rows["document"][mine][0]), sequence))
    assert seen == sorted(seen)


def test_documents_and_tokens_come_from_the_text(
    resolve: Resolve, tmp_path: Path, text: list[str], language_model: LanguageModel
) -> None:
    manifest = harvest(spec_with(), resolve, tmp_path / "set")
    rows = rows_of(tmp_path / "set")
    for number, (line, entry) in enumerate(zip(text, manifest.documents, strict=True)):
        mine = rows["document"] == number
        order = np.lexsort((rows["position"][mine].numpy(), rows["sequence"][mine].numpy()))
        tokens = rows["token_id"][mine].numpy()[order]
        assert tokens.tolist() == language_model.tokenizer.ids(line).tolist()
        assert entry.origin == f"texts:a.txt#{number + 1}"
        assert entry.sha256 == hashlib.sha256(line.encode()).hexdigest()
        assert entry.rows == len(line.split())
    assert {entry.split for entry in manifest.documents} == {"train", "heldout"}


@pytest.mark.usefixtures("text")
def test_manifest_says_how_it_was_made(resolve: Resolve, tmp_path: Path) -> None:
    spec = spec_with()
    manifest = harvest(spec, resolve, tmp_path / "set")
    sources = [(s.name, s.hook, s.layer, s.d) for s in manifest.sources]
    assert sources == [("resid_post.1", "resid_post", 1, 16), ("mlp_out.0", "mlp_out", 0, 16)]
    assert manifest.language_model == spec.language_model
    assert manifest.tokenization is not None
    assert manifest.tokenization.bos_token_id == 0
    assert manifest.tokenization.context_length == 8
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.usefixtures("text")
def test_progress_counts_up_to_what_was_expected(resolve: Resolve, tmp_path: Path) -> None:
    events = list(run_harvest(spec_with(), resolve, tmp_path / "set", lambda: False))
    progress = [event for event in events if isinstance(event, HarvestProgress)]
    finished = events[-1]
    assert isinstance(finished, HarvestFinished)
    assert progress[0].rows_done == 0
    assert progress[-1].rows_done == finished.manifest.rows == progress[0].rows_total
    assert progress[-1].tokens_per_second > 0


def stop_after(batches: int) -> Callable[[], bool]:
    """False for the survey's 30 documents and then for so many batches."""
    calls = iter([False] * (30 + batches))
    return lambda: next(calls, True)


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize("batches", [0, 5, 12])
def test_a_stopped_harvest_goes_on_to_the_same_bytes(
    resolve: Resolve, tmp_path: Path, batches: int
) -> None:
    spec = spec_with()
    undisturbed = harvest(spec, resolve, tmp_path / "whole")
    *_, stopped = run_harvest(spec, resolve, tmp_path / "cut", stop_after(batches))
    assert isinstance(stopped, HarvestStopped)
    assert 0 <= stopped.rows_done < undisturbed.rows
    assert stopped.rows_done % spec.shard_rows == 0
    assert harvest(spec, resolve, tmp_path / "cut") == undisturbed
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


@pytest.mark.usefixtures("text")
def test_whole_shards_are_not_forwarded_again(
    resolve: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_with()
    first = harvest(spec, resolve, tmp_path / "set")
    forwarded: list[int] = []
    forward = forward_rows

    def counting(
        model: LanguageModel, batch: list[TokenSequence], sites: list[SiteSpec]
    ) -> RowBlock:
        forwarded.append(sum(sequence.rows for sequence in batch))
        return forward(model, batch, sites)

    monkeypatch.setattr(run_module, "forward_rows", counting)
    assert harvest(spec, resolve, tmp_path / "set") == first
    last_shard = first.rows % spec.shard_rows
    assert last_shard <= sum(forwarded) < last_shard + 2 * (spec.context_length or 0)


def test_text_that_changed_does_not_continue_old_shards(
    resolve: Resolve, tmp_path: Path, text: list[str]
) -> None:
    *_, stopped = run_harvest(spec_with(), resolve, tmp_path / "set", stop_after(12))
    assert isinstance(stopped, HarvestStopped)
    resolve("texts:a.txt").write_text("\n".join(reversed(text)))
    with pytest.raises(DataMismatchError, match=r"the text was changed .* texts:a\.txt"):
        harvest(spec_with(), resolve, tmp_path / "set")


def test_text_that_changes_meanwhile_is_noticed(
    resolve: Resolve, tmp_path: Path, text: list[str]
) -> None:
    events = run_harvest(spec_with(), resolve, tmp_path / "set", lambda: False)
    assert isinstance(next(events), HarvestProgress)
    resolve("texts:a.txt").write_text("\n".join(reversed(text)))
    with pytest.raises(DataError, match="changed while it was harvested"):
        list(events)


@pytest.mark.usefixtures("text")
def test_max_tokens_is_exact(resolve: Resolve, tmp_path: Path) -> None:
    whole = harvest(spec_with(), resolve, tmp_path / "whole")
    manifest = harvest(spec_with(max_tokens=77), resolve, tmp_path / "set")
    assert manifest.rows == 77
    assert len(manifest.documents) < len(whole.documents)
    assert [d.sha256 for d in whole.documents[: len(manifest.documents)]] == [
        d.sha256 for d in manifest.documents
    ]


@pytest.mark.usefixtures("text")
def test_without_bos_the_first_token_is_a_row(resolve: Resolve, tmp_path: Path) -> None:
    manifest = harvest(spec_with(bos="none"), resolve, tmp_path / "set")
    rows = rows_of(tmp_path / "set")
    assert 0 in listed(rows["position"])
    assert 0 not in listed(rows["token_id"])
    assert manifest.tokenization is not None
    assert manifest.tokenization.bos_token_id is None


def test_tokenizer_without_bos(
    resolve: Resolve, tmp_path: Path, model_root: Path, text: list[str]
) -> None:
    folder = tmp_path / "texts" / "model"
    shutil.copytree(model_root / "tiny", folder)
    save_tokenizer(folder, bos=None)
    spec = spec_with(language_model={"path": "texts:model"})
    with pytest.raises(SpecError, match="no beginning-of-sequence token"):
        harvest(spec, resolve, tmp_path / "set")


@pytest.mark.usefixtures("text")
def test_too_little_disk_is_refused_before_the_model_runs(
    resolve: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_full(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    with pytest.raises(NoSpaceError, match=r"needs 0\.00 GB and 0\.00 GB are free"):
        harvest(spec_with(), resolve, tmp_path / "set")
    assert not (tmp_path / "set" / "shards").exists()


@pytest.mark.usefixtures("text")
def test_estimate_is_close_to_the_files(resolve: Resolve, tmp_path: Path) -> None:
    spec = spec_with(dtype="float16", shard_rows=1000)
    manifest = harvest(spec, resolve, tmp_path / "set")
    estimate = estimate_bytes(spec, {s.name: s.d for s in manifest.sources}, manifest.rows)
    written = sum(shard.size_bytes for shard in manifest.shards)
    assert 0 <= written - estimate < 1000


@pytest.mark.usefixtures("text")
def test_values_that_are_not_finite_name_document_and_position(
    resolve: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language_model: LanguageModel
) -> None:
    poisoned = LanguageModel(tiny_llama(), language_model.tokenizer, CPU)
    weight = decoder_layers(poisoned.model)[1].get_parameter("mlp.down_proj.weight")
    weight.data[3] = torch.inf

    def load(*_: object) -> LanguageModel:
        return poisoned

    monkeypatch.setattr(LanguageModel, "load", load)
    pattern = r"resid_post\.1, dimension 3, is .* in document texts:a\.txt#\d+, sequence \d+, posi"
    with pytest.raises(DataError, match=pattern):
        harvest(spec_with(), resolve, tmp_path / "set")


@pytest.mark.usefixtures("text")
def test_layer_that_does_not_exist(resolve: Resolve, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="layer 9 does not exist: the model has 3 layers"):
        harvest(spec_with(sites=[{"layer": 9}]), resolve, tmp_path / "set")


def test_all_text_held_out(resolve: Resolve, tmp_path: Path) -> None:
    resolve("texts:a.txt").write_text("w1 w2 w3")
    with pytest.raises(DataError, match="1 documents give 3 tokens and none of them for training"):
        harvest(spec_with(heldout_fraction=0.999999), resolve, tmp_path / "set")


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(SpecError, match="no CUDA device"):
        resolve_device("cuda")


def expected_heldout(text: list[str], manifest: DatasetManifest) -> list[str]:
    return [
        line
        for line, entry in zip(text, manifest.documents, strict=True)
        if entry.split == "heldout"
    ]


def token_rows(batches: Iterator[torch.Tensor]) -> list[list[int]]:
    return [[t for t in row if t != PAD] for batch in batches for row in listed(batch)]


def test_heldout_sequences_are_those_of_the_text(
    resolve: Resolve, tmp_path: Path, text: list[str], language_model: LanguageModel
) -> None:
    manifest = harvest(spec_with(shard_rows=7), resolve, tmp_path / "set")
    batches = heldout_sequences(tmp_path / "set", manifest, max_tokens=0, batch=4)
    expected: list[list[int]] = []
    for line in expected_heldout(text, manifest):
        ids = language_model.tokenizer.ids(line).tolist()
        expected += [[0, *ids[start : start + 7]] for start in range(0, len(ids), 7)]
    found = token_rows(batches)
    assert len(found) > 3
    assert sorted(found) == sorted(expected)


@pytest.mark.usefixtures("text")
def test_heldout_sequences_stop_at_max_tokens(resolve: Resolve, tmp_path: Path) -> None:
    manifest = harvest(spec_with(), resolve, tmp_path / "set")
    batches = heldout_sequences(tmp_path / "set", manifest, max_tokens=20, batch=2)
    count = sum(len(row) - 1 for row in token_rows(batches))
    assert 0 < count < 20 + 7


@pytest.mark.usefixtures("text")
def test_heldout_sequences_need_a_harvest_that_holds_out(resolve: Resolve, tmp_path: Path) -> None:
    manifest = harvest(spec_with(heldout_fraction=0), resolve, tmp_path / "set")
    with pytest.raises(DataMismatchError, match="tiny holds no rows out"):
        list(heldout_sequences(tmp_path / "set", manifest, max_tokens=0, batch=2))
    foreign = manifest.model_copy(update={"tokenization": None})
    with pytest.raises(DataMismatchError, match="tiny was not harvested from text"):
        list(heldout_sequences(tmp_path / "set", foreign, max_tokens=0, batch=2))


@pytest.mark.usefixtures("text")
def test_heldout_loss_goes_through_the_splice(
    resolve: Resolve, tmp_path: Path, language_model: LanguageModel
) -> None:
    manifest = harvest(spec_with(), resolve, tmp_path / "set")
    splice = Splice(language_model, SiteSpec(layer=1))
    nats = [
        splice(batch, None)
        for batch in heldout_sequences(tmp_path / "set", manifest, max_tokens=0, batch=3)
    ]
    assert len(torch.cat(nats)) == manifest.heldout_rows


@pytest.mark.parametrize("words", [9, 40, 1000])
def test_a_single_document_is_held_out_by_pieces(
    words: int, resolve: Resolve, tmp_path: Path
) -> None:
    """A book in one file: its sequences are those of one document, and some are held out."""
    resolve("texts:a.txt").write_text(" ".join(random.Random(1).choices(WORDS, k=words)))
    texts = [{"path": "texts:a.txt", "format": "text"}]
    manifest = harvest(spec_with(texts=texts, heldout_fraction=0.01), resolve, tmp_path / "set")
    assert 0 < manifest.heldout_rows <= manifest.rows / 2
    assert sum(entry.rows for entry in manifest.documents) == manifest.rows == words
    assert manifest.documents[0].origin.startswith("texts:a.txt tokens 0-")
    whole = harvest(spec_with(texts=texts, heldout_fraction=0), resolve, tmp_path / "whole")
    assert [entry.origin for entry in whole.documents] == ["texts:a.txt"]
    pieces, one = (rows_of(tmp_path / name) for name in ("set", "whole"))
    assert torch.equal(pieces["sequence"], one["sequence"])
    assert torch.equal(pieces["resid_post.1"], one["resid_post.1"])
    document = pieces["document"].numpy()
    for sequence in range(int(pieces["sequence"].max()) + 1):
        assert len(set(document[pieces["sequence"].numpy() == sequence])) == 1


def test_few_documents_are_never_all_for_training(resolve: Resolve, tmp_path: Path) -> None:
    for seed in range(8):
        lines = [" ".join(random.Random(f"{seed}{i}").choices(WORDS, k=12)) for i in range(3)]
        resolve("texts:a.txt").write_text("\n".join(lines))
        manifest = harvest(spec_with(heldout_fraction=0.02), resolve, tmp_path / str(seed))
        assert manifest.heldout_rows == 12


@pytest.mark.usefixtures("text")
def test_the_default_context_is_at_most_the_models_positions(
    resolve: Resolve, tmp_path: Path
) -> None:
    spec = spec_with(context_length=None)
    first, *_, last = run_harvest(spec, resolve, tmp_path / "set", lambda: False)
    assert first == HarvestResolved(POSITIONS)
    assert isinstance(last, HarvestFinished)
    assert last.manifest.tokenization is not None
    assert last.manifest.tokenization.context_length == POSITIONS


@pytest.mark.usefixtures("text")
def test_a_given_context_beyond_the_models_positions_is_refused(
    resolve: Resolve, tmp_path: Path
) -> None:
    spec = spec_with(context_length=POSITIONS + 1)
    with pytest.raises(SpecError, match=f"exceeds the model's {POSITIONS} positions"):
        harvest(spec, resolve, tmp_path / "set")
