"""FeatureService over gRPC and through the SDK, on bundles in a store."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from tests.fakes.bundle_store import D_SAE, NEW, OLD, Deployment

from saeserve.client import FeatureFilter
from saeserve.client.errors import InvalidArgumentError, NotFoundError, PreconditionError
from saeserve.client.feature_bundles import Group, Order
from saeserve.client.feature_values import FeatureSummary
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.labels.label import proportion


@pytest.fixture
def newest(bundles: Deployment) -> Iterator[FeatureBundle]:
    with FeatureBundle.open(bundles.store.path(f"features/sae/1/{NEW}")) as bundle:
        yield bundle


def test_a_bundle_says_what_it_was_made_of(bundles: Deployment, newest: FeatureBundle) -> None:
    with bundles.client() as client:
        found = client.features.describe("sae")
        older = client.features.describe("sae@1", job=OLD)
    known = newest.manifest
    assert (found.model, found.job, found.jobs) == ("models/sae/versions/1", NEW, (NEW, OLD))
    for name in ("dataset", "source", "d_sae", "rows", "tokens", "sequences", "seed", "window"):
        assert getattr(found, name) == getattr(known, name)
    assert (found.firing_features, found.labelled_features) == (180, 1)
    assert (found.logits, found.neighbours) == (known.logits, 16)
    assert found.created is not None
    assert found.size_bytes > 100_000
    assert (older.job, older.labelled_features) == (OLD, 0)


@pytest.mark.parametrize("order", ["density", "max", "feature"])
@pytest.mark.parametrize("ascending", [True, False])
def test_a_list_is_that_of_the_bundle(
    bundles: Deployment, newest: FeatureBundle, order: Order, ascending: bool
) -> None:
    expected = newest.list_features(order, descending=not ascending, limit=D_SAE).features
    with bundles.client() as client:
        found = list(client.features.list("sae", order_by=order, ascending=ascending))
        page = client.features.page("sae", order_by=order, ascending=ascending, skip=30, size=20)
    assert found == [FeatureSummary(*dataclasses.astuple(one)) for one in expected]
    assert [each.feature for each in page.features] == [each.feature for each in found[30:50]]
    assert (page.total, page.job) == (D_SAE, NEW)


def test_a_filter_restricts_a_list(bundles: Deployment) -> None:
    with bundles.client() as client:
        dead = client.features.page("sae", where=FeatureFilter(dead=True), size=100)
        some = client.features.page("sae", where=FeatureFilter(min_density=0.2, max_density=0.5))
        named = client.features.page("sae", where=FeatureFilter(features=(5, 2, 3)))
        found = client.features.page("sae", where=FeatureFilter(label="MONTH yea"))
        none = client.features.page("sae", where=FeatureFilter(label='year" OR x\0*'))
    assert [each.feature % 10 for each in dead.features] == [9] * 20
    assert all(0.2 <= each.density <= 0.5 for each in some.features)
    assert {each.feature for each in named.features} == {2, 3, 5}
    assert [(each.feature, each.label) for each in found.features] == [(3, "months of the year")]
    assert none.total == 0


def test_a_feature_is_that_of_the_bundle(bundles: Deployment, newest: FeatureBundle) -> None:
    expected = newest.feature(3)
    with bundles.client() as client:
        found = client.features.get("sae", 3)
    assert (found.summary.feature, found.summary.count) == (3, expected.summary.count)
    assert found.moments == expected.moments
    assert found.histogram.edges == expected.histogram.edges
    assert found.histogram.counts == expected.histogram.counts
    for name in ("top", "uniform"):
        assert_same(getattr(found, name), getattr(expected, name))
    assert len(found.top) == 16
    for interval, told in zip(found.intervals, expected.intervals, strict=True):
        assert (interval.low, interval.high, interval.count) == (told.low, told.high, told.count)
        assert_same(interval.contexts, told.contexts)
    for name in ("logits_up", "logits_down", "neighbours"):
        assert_same(getattr(found, name), getattr(expected, name))
    best, other = found.labels
    assert (best.text, best.kind) == ("months of the year", "patterns")
    assert best.precision is not None
    assert vars(best.precision) == vars(proportion(45, 50))
    assert (other.text, other.kind, other.precision) == ("days", "top_tokens", None)
    assert other.recall is not None
    assert (other.recall.value, other.recall.n) == (0.0, 60)


def assert_same(found: Any, expected: Any) -> None:  # noqa: ANN401 - of two classes
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert vars(one) == vars(other)


@pytest.mark.parametrize("group", ["top", "uniform", "intervals"])
def test_contexts_of_several_features(
    bundles: Deployment, newest: FeatureBundle, group: Group
) -> None:
    with bundles.client() as client:
        found = client.features.contexts("sae", [7, 9, 0], group=group, count=3)
    assert list(found) == [7, 9, 0]
    whole = newest.feature(7)
    groups = {
        "top": whole.top,
        "uniform": whole.uniform,
        "intervals": [one for each in whole.intervals for one in each.contexts],
    }
    assert_same(found[7], groups[group][:3])
    assert found[9] == ()  # dead


def test_tokens_are_searched(bundles: Deployment, newest: FeatureBundle) -> None:
    with bundles.client() as client:
        (exact,) = client.features.search_token("sae", " WORD4")
        several = client.features.search_token("sae", "part1", count=5)
        none = client.features.search_token("sae", "nowhere")
    (expected,) = newest.search_token("word4")
    assert (exact.token, exact.text, exact.count) == (4, " Word4", expected.count)
    assert [vars(each) for each in exact.features] == [vars(each) for each in expected.features]
    assert [each.text for each in several] == ["part1"]
    assert none == ()


def test_pages_stay_with_their_bundle(bundles: Deployment) -> None:
    bundles.publish("growing")
    bundles.bundle("growing", OLD, seed=1)
    with bundles.client() as client:
        first = client.features.page("growing", size=10)
        whole = client.features.page("growing", size=100)
        bundles.bundle("growing", NEW, seed=2)
        token = first.next_page_token
        second = client.features.page("growing", size=10, token=token)
        assert (first.job, second.job) == (OLD, OLD)
        assert second.features == whole.features[10:20]
        assert client.features.page("growing", size=10).job == NEW
        with pytest.raises(InvalidArgumentError) as caught:
            client.features.page("growing", size=10, token=token, ascending=True)
        assert caught.value.reason == "BAD_PAGE_TOKEN"
        bundles.store.remove(f"features/growing/1/{OLD}")
        with pytest.raises(PreconditionError) as stale:
            client.features.page("growing", size=10, token=token)
        assert (stale.value.reason, stale.value.field) == ("STALE_PAGE_TOKEN", "page_token")


def test_a_deleted_version_takes_its_bundles_along(bundles: Deployment) -> None:
    bundles.publish("doomed")
    bundles.bundle("doomed", OLD)
    with bundles.client() as client:
        token = client.features.page("doomed", size=10).next_page_token
        bundles.delete("doomed@1")
        assert not bundles.store.exists("features/doomed/1")
        for call in (client.features.describe, client.features.page):
            with pytest.raises(NotFoundError) as caught:
                call("doomed@1")
            assert caught.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(PreconditionError) as stale:
            client.features.page("doomed", size=10, token=token)
        assert stale.value.reason == "STALE_PAGE_TOKEN"


def test_reads_in_parallel_while_bundles_come_and_go(bundles: Deployment) -> None:
    """Every answer is that of a whole bundle, or says that there is none."""
    bundles.publish("busy")
    first = bundles.bundle("busy", "j-0", seed=5)
    shutil.copytree(first, bundles.root / "kept")
    done = Event()
    with bundles.client() as client:
        known = {number: client.features.get("busy", number) for number in range(30)}

        def read(number: int) -> tuple[int, int, int]:
            asked = right = absent = 0
            while not done.is_set():
                asked, number = asked + 1, (number + 7) % 30
                try:
                    found = client.features.get("busy", number)
                except PreconditionError as error:
                    absent += error.reason == "NO_BUNDLE"
                else:
                    right += replace(found, job="j-0") == known[number]
            return asked - right - absent, right, absent

        with ThreadPoolExecutor(6) as pool:
            reads = [pool.submit(read, number) for number in range(6)]
            for job in range(15):
                bundles.store.remove(f"features/busy/1/j-{job}")
                time.sleep(0.01)
                shutil.copytree(bundles.root / "kept", bundles.root / "copy")
                (bundles.root / "copy").rename(first.with_name(f"j-{job + 1}"))
                time.sleep(0.03)
            done.set()
            counts = [each.result() for each in reads]
    wrong, right, absent = map(sum, zip(*counts, strict=True))
    assert wrong == 0
    assert right > 10
    assert absent > 0
