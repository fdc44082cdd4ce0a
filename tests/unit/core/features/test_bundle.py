"""A bundle says what was written into it, and refuses to be read when it is not whole."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.feature_bundles import SEQUENCE, label_of, make_bundle, token_texts

from saeserve.core.features import schema
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.values import FeatureFilter
from saeserve.core.labels.choosing import Method
from saeserve.core.labels.label import proportion
from saeserve.core.labels.text import Kind, unpack
from saeserve.errors import DamagedError, FormatError, SpecError

LABELS = (
    label_of(3, "␣months, of the year"),
    label_of(3, "days", method=Method.TOP_TOKENS, best=False),
    label_of(7, 'a "quoted" NOT word', counts=(0, 0, 0)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundles") / "bundle"
    return make_bundle(place, d_sae=200, labels=LABELS)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return make_bundle(tmp_path / "bundle", d_sae=20)


def edited(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / schema.DATABASE_FILE)) as database, database:
        database.execute(statement)


def test_a_list_is_sorted_and_paged(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        pages = [
            bundle.list_features("density", offset=start, limit=60) for start in range(0, 200, 60)
        ]
        found = [summary for page in pages for summary in page.features]
        rising = bundle.list_features("max", descending=False, limit=200).features
    assert {page.total for page in pages} == {200}
    assert sorted(summary.feature for summary in found) == list(range(200))
    assert [one.density for one in found] == sorted((one.density for one in found), reverse=True)
    assert [one.max for one in rising] == sorted(one.max for one in rising)


def test_a_filter_restricts_what_a_list_holds(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        dead = bundle.list_features("feature", where=FeatureFilter(dead=True), descending=False)
        middle = bundle.list_features(
            where=FeatureFilter(min_density=0.5, max_density=0.9), limit=200
        )
        strong = bundle.list_features(where=FeatureFilter(min_max=25, dead=False), limit=200)
        some = bundle.list_features(
            "feature", where=FeatureFilter(features=(5, 2)), descending=False
        )
    assert [one.feature for one in dead.features] == list(range(9, 200, 10))
    assert middle.features
    assert all(0.5 <= one.density <= 0.9 for one in middle.features)
    assert all(one.max >= 25 for one in strong.features)
    assert strong.total == len(strong.features) > 0
    assert [one.feature for one in some.features] == [2, 5]


@pytest.mark.parametrize(
    ("words", "found"),
    [("month", [3]), ("year mon", [3]), ("NOT", [7]), ('"quoted"', [7]), ("day", []), ("* (", [])],
)
def test_labels_are_searched_by_the_words_typed(folder: Path, words: str, found: list[int]) -> None:
    with FeatureBundle.open(folder) as bundle:
        listed = bundle.list_features(where=FeatureFilter(label=words))
        assert [one.feature for one in listed.features] == found


def test_labels_come_with_their_scores(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        labelled, unknown, without = (bundle.feature(number) for number in (3, 7, 8))
    label = labelled.label
    assert label is not None
    assert (label.text, label.source) == ("␣months, of the year", "patterns")
    assert (label.precision.value, label.precision.n) == (0.9, 50)
    assert (label.recall.value, label.recall.n) == (0.75, 60)
    assert label.precision == proportion(45, 50)
    assert [unpack(key) for key in label.patterns] == [(Kind.TOKEN, 0, 5)]
    assert [each.text for each in labelled.other_labels] == ["days"]
    summary = labelled.summary
    assert (summary.label, summary.precision, summary.recall) == (label.text, 0.9, 0.75)
    assert unknown.label is not None
    assert unknown.label.precision.n == 0
    assert (unknown.summary.precision, unknown.summary.recall) == (None, None)
    assert (without.label, without.other_labels, without.summary.label) == (None, (), None)


def test_a_feature_comes_with_its_contexts(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        feature = bundle.feature(3)
        settings = bundle.manifest
        tokens = np.load(folder / schema.TOKEN_FILE)
    assert len(feature.top) == settings.top
    assert len(feature.uniform) == settings.uniform
    values = [one.value for one in feature.top]
    assert values == sorted(values, reverse=True)
    for context in (*feature.top, *feature.uniform):
        at = context.position
        assert context.tokens[context.peak] == tokens[at]
        assert context.activations[context.peak] == context.value
        assert sum(value != 0 for value in context.activations) == 2
        assert context.sequence == at // SEQUENCE
        assert context.peak == min(settings.window, at % SEQUENCE)
        assert context.texts[0] == token_texts()[context.tokens[0]]
    assert len(feature.neighbours) == settings.neighbours
    assert feature.logits_up[0].score > 0 > feature.logits_down[0].score
    assert feature.logits_up[0].text == token_texts()[feature.logits_up[0].token]


def test_a_feature_s_figures_agree_with_each_other(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        feature = bundle.feature(3)
        assert bundle.histogram(3) == feature.histogram
    summary = feature.summary
    assert sum(feature.histogram.counts) == summary.count
    assert feature.moments[0] == pytest.approx(summary.mean * summary.count)
    assert len(feature.histogram.edges) == len(feature.histogram.counts) + 1
    assert [(one.low, one.high) for one in feature.intervals] == [(8.0, 16.0)]
    assert all(8 <= one.value < 16 for one in feature.intervals[0].contexts)


def test_a_feature_that_never_fired_has_no_contexts(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        feature = bundle.feature(9)
    assert (feature.summary.count, feature.summary.density, feature.summary.max) == (0, 0, 0)
    assert feature.top == feature.uniform == feature.intervals == ()


def test_a_token_leads_to_features(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        (exact,) = bundle.search_token("WORD8")
        beginning = bundle.search_token("word4", limit=5)
        prefix = bundle.search_token("par", limit=5)
        assert bundle.search_token(" ") == bundle.search_token("nothing") == ()
    assert (exact.token, exact.text) == (8, " Word8")
    scores = [one.score for one in exact.features]
    assert scores == sorted(scores, reverse=True)
    assert [one.token for one in beginning] == [4]
    assert [one.count for one in prefix] == sorted((one.count for one in prefix), reverse=True)


@pytest.mark.parametrize("feature", [-1, 200])
def test_a_feature_out_of_range_is_refused(folder: Path, feature: int) -> None:
    with FeatureBundle.open(folder) as bundle:
        for read in (bundle.feature, bundle.summary, bundle.histogram):
            with pytest.raises(SpecError, match=r"not in 0 \.\. 199"):
                read(feature)


def test_a_page_out_of_range_is_refused(folder: Path) -> None:
    with FeatureBundle.open(folder) as bundle:
        with pytest.raises(SpecError, match="limit"):
            bundle.list_features(limit=0)
        with pytest.raises(SpecError, match="offset"):
            bundle.list_features(offset=-1)
        with pytest.raises(SpecError, match="sort"):
            bundle.list_features("max; DROP TABLE features")  # pyright: ignore[reportArgumentType]


def test_a_bundle_without_logits_has_none(tmp_path: Path) -> None:
    with FeatureBundle.open(make_bundle(tmp_path / "bundle", 20, logits=False)) as bundle:
        assert bundle.manifest.logits is None
        assert bundle.feature(0).logits_up == ()


@pytest.mark.parametrize("name", schema.BUNDLE_FILES)
def test_a_bundle_that_lacks_a_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FormatError, match=name):
        FeatureBundle.open(copy)


@pytest.mark.parametrize("name", schema.BUNDLE_FILES)
@pytest.mark.parametrize("kept", [0, 50, -7])
def test_a_bundle_that_was_cut_short_is_refused(copy: Path, name: str, kept: int) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match=name):
        FeatureBundle.open(copy)


def test_a_database_that_was_not_finished_is_refused(copy: Path) -> None:
    edited(copy, "DELETE FROM meta")
    with pytest.raises(FormatError, match="not finished"):
        FeatureBundle.open(copy)


def test_another_version_is_refused_by_its_number(copy: Path) -> None:
    edited(copy, "PRAGMA user_version = 7")
    with pytest.raises(FormatError, match="version 7; this release reads 2"):
        FeatureBundle.open(copy)


def test_damaged_bytes_of_a_feature_are_refused(copy: Path) -> None:
    edited(copy, "UPDATE pages SET examples = x'ff000000' WHERE feature = 4")
    edited(copy, "UPDATE pages SET neighbours = x'ff' WHERE feature = 5")
    with FeatureBundle.open(copy) as bundle:
        for feature in (4, 5):
            with pytest.raises(DamagedError, match="another length"):
                bundle.feature(feature)
