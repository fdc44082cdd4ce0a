"""BOS, special tokens, positions and packing: which rows a harvest stores, of which contexts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.tiny_models import CPU, EOS, WORDS, listed, save_model, save_tokenizer, tiny_llama

from saeserve.core.data.finishing import Split
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataError, SpecError
from saeserve.harvest.documents import Document
from saeserve.harvest.events import HarvestFinished, HarvestStopped
from saeserve.harvest.heldout import heldout_sequences
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.packing import packed
from saeserve.harvest.row_rule import RowRule
from saeserve.harvest.rows import forward_rows
from saeserve.harvest.run import run_harvest
from saeserve.harvest.sequences import PAD, Tokenization, batches
from saeserve.harvest.splice import row_mask

Resolve = Callable[[str], Path]
SITE = SiteSpec(layer=1)
BOS, UNK = 0, 1
LENGTH = 8
SETTINGS: dict[str, dict[str, object]] = {
    "slice": {"position_start": 1, "position_stop": -1},
    "last": {"position_start": -3},
    "special": {"special_token_rows": "drop"},
    "joined": {"packing": "joined"},
    "separate": {"packing": "separate"},
    "all": {"packing": "joined", "special_token_rows": "drop", "position_start": 2},
    "no bos": {"packing": "joined", "bos": "none", "position_stop": -1},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the tiny model, whose tokenizer has an EOS token."""
    root = tmp_path_factory.mktemp("ended")
    save_model(tiny_llama(), root / "tiny")
    save_tokenizer(root / "tiny", eos=True)
    return root


@pytest.fixture
def places(ended: Path, tmp_path: Path) -> Resolve:
    roots = {"models": ended, "texts": tmp_path}
    return lambda name: roots[name.partition(":")[0]] / name.partition(":")[2]


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """30 documents of 1 to 20 words, some of them unknown, which is a special token."""
    draw = random.Random(0)
    found = [" ".join(draw.choices([*WORDS, "?"], k=draw.randint(1, 20))) for _ in range(30)]
    (tmp_path / "a.txt").write_text("\n".join(found))
    return found


def spec_with(**fields: object) -> HarvestSpec:
    value: dict[str, Any] = {
        "dataset": "tiny",
        "language_model": {"path": "models:tiny"},
        "texts": [{"path": "texts:a.txt", "format": "lines"}],
        "sites": [{"hook": "resid_post", "layer": 1}],
        "context_length": LENGTH,
        "dtype": "float32",
        "heldout_fraction": 0.3,
        "shard_rows": 20,
        "batch_sequences": 3,
        "compute_dtype": "float32",
        "device": "cpu",
    }
    return HarvestSpec.parse(value | fields, "harvest")


def harvest(spec: HarvestSpec, resolve: Resolve, folder: Path) -> DatasetManifest:
    *_, last = run_harvest(spec, resolve, folder, lambda: False)
    assert isinstance(last, HarvestFinished)
    return last.manifest


def rows_of(folder: Path, manifest: DatasetManifest) -> dict[str, torch.Tensor]:
    shards = [
        safetensors.torch.load((folder / entry.file).read_bytes()) for entry in manifest.shards
    ]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def expected_contexts(
    documents: Sequence[tuple[int, list[int]]], spec: HarvestSpec
) -> list[list[tuple[int, int]]]:
    """Contexts as lists of (document, token), in plain Python; the document of BOS is -1."""
    front = [] if spec.bos == "none" else [(-1, BOS)]
    step = LENGTH - len(front)
    if spec.packing == "none":
        streams = [[(number, token) for token in ids] for number, ids in documents]
    else:
        streams = [[(number, t) for number, ids in documents for t in [*ids, EOS]]]
    return [[*front, *s[at : at + step]] for s in streams for at in range(0, len(s), step)]


def expected_places(context: list[tuple[int, int]], spec: HarvestSpec) -> list[int]:
    special = {BOS, UNK, EOS} if spec.special_token_rows == "drop" else set[int]()
    return [
        place
        for place in range(len(context))[spec.position_start : spec.position_stop]
        if context[place][0] >= 0 and context[place][1] not in special
    ]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "separate"])
def test_rows_are_those_of_the_settings(
    places: Resolve, tmp_path: Path, lines: list[str], ended: Path, name: str
) -> None:
    """Every stored row, and no other, is where plain Python expects it, with the activation that
    the model has for its context alone."""
    spec = spec_with(**SETTINGS[name])
    manifest = harvest(spec, places, tmp_path / "set")
    model = LanguageModel.load(ended / "tiny", None, CPU, "float32")
    ids = [(i, model.tokenizer.ids(line).tolist()) for i, line in enumerate(lines)]
    expected: list[tuple[int, int, int, torch.Tensor]] = []
    heldout: list[list[int]] = []
    for split in ("train", "heldout"):
        mine = [each for each in ids if manifest.documents[each[0]].split == split]
        for context in expected_contexts(mine, spec):
            tokens = [token for _, token in context]
            values = model.capture(torch.tensor([tokens]), [SITE])[SITE.source][0]
            kept = expected_places(context, spec)
            expected += [(*context[place], place, values[place]) for place in kept]
            heldout += [tokens] if kept and split == "heldout" else []
    rows = rows_of(tmp_path / "set", manifest)
    columns = [listed(rows[each]) for each in ("document", "token_id", "position")]
    found = [*zip(*columns, rows[SITE.source], strict=True)]
    assert manifest.rows == len(found) == len(expected) > 20
    for one, other in zip(_sorted(found), _sorted(expected), strict=True):
        assert one[:3] == other[:3]
        torch.testing.assert_close(one[3], other[3], rtol=1e-4, atol=1e-5)
    stored = heldout_sequences(tmp_path / "set", manifest, max_tokens=0, batch=4)
    replayed = [[t for t in row if t != PAD] for batch in stored for row in listed(batch)]
    assert sorted(replayed) == sorted(heldout)


def _sorted(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: (*row[:3], *listed(row[3].round(decimals=3))))


def test_separate_documents_are_as_behind_a_mask(
    places: Resolve, tmp_path: Path, lines: list[str], ended: Path
) -> None:
    """Rows are those of one pass over the whole context with attention only within a document,
    and with positions that begin anew with each."""
    spec = spec_with(packing="separate", bos="none", heldout_fraction=0)
    rows = rows_of(tmp_path / "set", harvest(spec, places, tmp_path / "set"))
    model = LanguageModel.load(ended / "tiny", None, CPU, "float32")
    ids = [(i, model.tokenizer.ids(line).tolist()) for i, line in enumerate(lines)]
    expected = [row for each in expected_contexts(ids, spec) for row in _masked(model, each)]
    columns = [listed(rows[each]) for each in ("document", "token_id", "position")]
    found = [*zip(*columns, rows[SITE.source], strict=True)]
    assert len(found) == len(expected)
    for one, other in zip(_sorted(found), _sorted(expected), strict=True):
        assert one[:3] == other[:3]
        torch.testing.assert_close(one[3], other[3], rtol=1e-3, atol=1e-4)


def _masked(model: LanguageModel, context: list[tuple[int, int]]) -> list[Any]:
    documents = torch.tensor([document for document, _ in context])
    tokens = torch.tensor([[token for _, token in context]])
    same = documents[:, None] == documents[None]
    places = torch.cumsum(same.tril(-1).int(), 1)[:, -1]
    mask = torch.zeros(same.shape).masked_fill(~same.tril(), -torch.inf)
    inner: Any = model.model
    inner.config._attn_implementation = "eager"
    with torch.no_grad():
        states = inner.model(
            input_ids=tokens,
            attention_mask=mask[None, None],
            position_ids=places[None],
            output_hidden_states=True,
        ).hidden_states
    values = states[SITE.layer + 1][0]
    return [(*context[t], int(places[t]), values[t]) for t in range(len(context))]


LISTS = st.lists(st.lists(st.integers(0, EOS), min_size=1, max_size=14), min_size=1, max_size=7)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    LISTS,
    st.integers(1, 5),
    st.sampled_from([None, BOS]),
    st.sampled_from([RowRule(), RowRule((UNK, EOS)), RowRule((BOS,), 1, -1), RowRule((), -2)]),
    st.booleans(),
)
def test_rows_do_not_depend_on_batch_and_padding(
    language_model: LanguageModel,
    documents: list[list[int]],
    size: int,
    bos: int | None,
    rule: RowRule,
    joined: bool,
) -> None:
    tokenization = Tokenization(language_model.tokenizer, 6, bos, EOS, rule)
    ids = [(i, np.asarray(each, np.int32)) for i, each in enumerate(documents)]
    splits: list[Split] = ["train"] * len(ids)
    found = list(packed(ids, splits, tokenization, joined=joined))
    in_order = [t for s in found for t in s.tokens[len(tokenization.prefix) :].tolist()]
    assert in_order == [token for each in documents for token in each]
    for batch in batches((s for s in found if s.rows), size):
        together = forward_rows(language_model, batch, [SITE])
        alone = [forward_rows(language_model, [each], [SITE]) for each in batch]
        for column in ("document", "sequence", "position", "token_id"):
            parts = [getattr(each, column) for each in alone]
            assert getattr(together, column).tolist() == np.concatenate(parts).tolist()
        values = torch.cat([each.tensors[SITE.source] for each in alone])
        torch.testing.assert_close(together.tensors[SITE.source], values, rtol=1e-3, atol=1e-4)


@given(LISTS, st.booleans(), st.integers(-6, 6), st.none() | st.integers(-6, 6))
def test_a_splice_replaces_the_rows_that_a_harvest_stores(
    documents: list[list[int]], bos: bool, start: int, stop: int | None
) -> None:
    rule = RowRule((UNK,), start, stop)
    rows = [np.asarray(each, np.int32) for each in documents]
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(each, dtype=torch.int64) for each in rows], True, PAD
    )
    mask = row_mask(padded, bos, rule)
    for tokens, kept in zip(rows, mask, strict=True):
        assert listed(kept[: len(tokens)]) == rule.kept(tokens, bos).tolist()
        assert not kept[len(tokens) :].any()


def test_a_sequence_without_rows_is_not_stored(places: Resolve, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1\n" * 5 + "w1 w2 w3 w4\n" + "w5 w6 w7 w8\n")
    manifest = harvest(spec_with(position_start=3), places, tmp_path / "set")
    assert manifest.rows == 4
    assert [entry.rows for entry in manifest.documents] == [0] * 5 + [2, 2]
    assert manifest.heldout_rows == 2


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("name", ["all", "separate"])
@pytest.mark.parametrize("calls", [33, 38])
def test_a_stopped_harvest_goes_on_to_the_same_bytes(
    places: Resolve, tmp_path: Path, name: str, calls: int
) -> None:
    spec = spec_with(**SETTINGS[name])
    whole = harvest(spec, places, tmp_path / "whole")
    answers = iter([False] * calls)
    *_, last = run_harvest(spec, places, tmp_path / "cut", lambda: next(answers, True))
    assert isinstance(last, HarvestStopped)
    assert harvest(spec, places, tmp_path / "cut") == whole
    for entry in whole.files:
        one, other = (tmp_path / each / entry.file for each in ("cut", "whole"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.usefixtures("lines")
def test_contexts_that_were_changed_are_named(places: Resolve, tmp_path: Path) -> None:
    manifest = harvest(spec_with(position_start=2), places, tmp_path / "set")
    assert manifest.contexts is not None
    file = tmp_path / "set" / manifest.contexts[0].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="contexts-00000"):
        list(heldout_sequences(tmp_path / "set", manifest, max_tokens=0, batch=4))


@pytest.mark.usefixtures("lines")
def test_contexts_fill_several_files(
    places: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = harvest(spec_with(position_start=2), places, tmp_path / "one")
    monkeypatch.setattr("saeserve.harvest.stored_contexts.FILE_TOKENS", 20)
    many = harvest(spec_with(position_start=2), places, tmp_path / "many")
    assert len(many.contexts or ()) > 1
    stored = [
        list(heldout_sequences(tmp_path / name, manifest, max_tokens=0, batch=1))
        for name, manifest in (("one", one), ("many", many))
    ]
    assert all(torch.equal(*pair) for pair in zip(*stored, strict=True))


@pytest.mark.usefixtures("lines")
def test_packing_needs_an_end_token(resolve: Resolve) -> None:
    resolve("texts:a.txt").write_text("w1 w2\nw3")
    with pytest.raises(SpecError, match="no end-of-sequence token") as caught:
        harvest(spec_with(packing="joined"), resolve, resolve("texts:set"))
    assert caught.value.field == "harvest.packing"


def test_rows_that_are_all_left_out_are_refused(places: Resolve, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("? ?\n?")
    with pytest.raises(DataError, match="leave out all 3 tokens"):
        harvest(spec_with(special_token_rows="drop"), places, tmp_path / "set")


@pytest.mark.parametrize(("puts_bos", "first"), [(True, "prepend"), (False, "none")])
@pytest.mark.usefixtures("lines")
def test_bos_as_the_model_has_it(
    places: Resolve, tmp_path: Path, puts_bos: bool, first: str
) -> None:
    save_model(tiny_llama(), tmp_path / "own")
    save_tokenizer(tmp_path / "own", puts_bos=puts_bos)
    own: dict[str, object] = {"language_model": {"path": "texts:own"}}
    model = harvest(spec_with(bos="model", **own), places, tmp_path / "model")
    fixed = harvest(spec_with(bos=first, **own), places, tmp_path / "fixed")
    assert model == fixed
    assert model.tokenization is not None
    assert model.tokenization.bos == first


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"position_start": 3, "position_stop": 3}, "position_stop"),
        ({"position_start": -1, "position_stop": -2}, "position_stop"),
        ({"position_start": 5, "position_stop": -5}, "position_stop"),
        ({"position_stop": 1}, "position_stop"),
        ({"position_start": LENGTH + 1}, "position_start"),
        ({"position_stop": -LENGTH - 1}, "position_stop"),
    ],
)
def test_positions_that_contradict_are_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_with(**fields)
    assert caught.value.field == f"harvest.{field}"
    assert spec_with(position_stop=1, bos="none").position_stop == 1


@pytest.mark.parametrize("template_end", ["", "<eos>"])
def test_a_conversation_ends_with_one_eos(ended: Path, template_end: str) -> None:
    tokenizer = LanguageModel.load(ended / "tiny", None, CPU, "float32").tokenizer
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}" + template_end
    cast("Any", tokenizer)._inner.chat_template = template
    document = Document("texts:c#1", "[]", ({"role": "user", "content": "w0 w1"},))
    assert Tokenization(tokenizer, LENGTH, None, EOS).ids(document).tolist() == [2, 3, EOS]
    assert tokenizer.special_ids() == (BOS, UNK, EOS)
