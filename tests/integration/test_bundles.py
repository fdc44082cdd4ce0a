"""FeatureService over gRPC and through the SDK, on bundles in a store."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from tests.fakes.bundle_store import put_bundle
from tests.fakes.feature_bundles import label_of
from tests.fakes.inference_server import INVALID, in_thread, refusal, settings_of
from tests.fakes.small_model import small_model

from saeserve.client import Client, FeatureFilter
from saeserve.client.errors import InvalidArgumentError, NotFoundError, PreconditionError
from saeserve.client.feature_bundles import Group, Order
from saeserve.client.feature_values import FeatureSummary
from saeserve.core.export.format import save_model
from saeserve.core.features import schema
from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.formats.model import TopKActivation
from saeserve.core.labels.choosing import Method
from saeserve.core.labels.label import proportion
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc

D_SAE = 200
LABELS = (
    label_of(3, "months of the year"),
    label_of(3, "days", method=Method.TOP_TOKENS, counts=(0, 60, 0), best=False),
)
OLD, NEW = "j-00000000000000000001", "j-00000000000000000002"
PRECONDITION, ABSENT = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND


@dataclass(frozen=True)
class Deployment:
    """A running service, and the store that it reads."""

    stub: Any
    address: str
    store: ArtifactStore
    models: ModelRegistry
    root: Path

    def publish(self, name: str, index: int = 0, seed: int = 0) -> str:
        folder = self.root / f"{name}-{index}"
        save_model(small_model(TopKActivation(k=4), d_sae=D_SAE, seed=seed), folder)
        return self.models.publish(name, "j-test", index, folder)

    def bundle(self, reference: str, job: str, **made: object) -> Path:
        return put_bundle(self.store, self.models, reference, job, **made)

    def client(self) -> Client:
        return Client(self.address, self.address)

    def delete(self, reference: str) -> None:
        self.models.delete_version(reference, lambda _: [], force=True)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    root = tmp_path_factory.mktemp("bundles")
    store = ArtifactStore(root / "store")
    models = ModelRegistry(store)
    with (
        in_thread(settings_of(root / "store")) as parts,
        grpc.insecure_channel(parts.server.bound) as channel,
    ):
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        made = Deployment(stub, parts.server.bound, store, models, root)
        made.publish("sae")
        made.bundle("sae", OLD, seed=1)
        made.bundle("sae", NEW, seed=2, labels=LABELS)
        yield made


@pytest.fixture
def newest(deployment: Deployment) -> Iterator[FeatureBundle]:
    with FeatureBundle.open(deployment.store.path(f"features/sae/1/{NEW}")) as bundle:
        yield bundle


def test_a_bundle_says_what_it_was_made_of(deployment: Deployment, newest: FeatureBundle) -> None:
    with deployment.client() as client:
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
    deployment: Deployment, newest: FeatureBundle, order: Order, ascending: bool
) -> None:
    expected = newest.list_features(order, descending=not ascending, limit=D_SAE).features
    with deployment.client() as client:
        found = list(client.features.list("sae", order_by=order, ascending=ascending))
        page = client.features.page("sae", order_by=order, ascending=ascending, skip=30, size=20)
    assert found == [FeatureSummary(*dataclasses.astuple(one)) for one in expected]
    assert [each.feature for each in page.features] == [each.feature for each in found[30:50]]
    assert (page.total, page.job) == (D_SAE, NEW)


def test_a_filter_restricts_a_list(deployment: Deployment) -> None:
    with deployment.client() as client:
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


def test_a_feature_is_that_of_the_bundle(deployment: Deployment, newest: FeatureBundle) -> None:
    expected = newest.feature(3)
    with deployment.client() as client:
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
    deployment: Deployment, newest: FeatureBundle, group: Group
) -> None:
    with deployment.client() as client:
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


def test_tokens_are_searched(deployment: Deployment, newest: FeatureBundle) -> None:
    with deployment.client() as client:
        (exact,) = client.features.search_token("sae", " WORD4")
        several = client.features.search_token("sae", "part1", count=5)
        none = client.features.search_token("sae", "nowhere")
    (expected,) = newest.search_token("word4")
    assert (exact.token, exact.text, exact.count) == (4, " Word4", expected.count)
    assert [vars(each) for each in exact.features] == [vars(each) for each in expected.features]
    assert [each.text for each in several] == ["part1"]
    assert none == ()


NO_FEATURE = ("NO_SUCH_FEATURE", "feature")
REFUSED: list[tuple[str, Message, grpc.StatusCode, str, str]] = [
    ("DescribeBundle", pb.DescribeBundleRequest(), INVALID, "NO_MODEL", "model"),
    (
        "DescribeBundle",
        pb.DescribeBundleRequest(model="none"),
        ABSENT,
        "MODEL_NOT_FOUND",
        "model",
    ),
    (
        "DescribeBundle",
        pb.DescribeBundleRequest(model="sae", job="../1"),
        ABSENT,
        "BUNDLE_NOT_FOUND",
        "job",
    ),
    (
        "GetFeature",
        pb.GetFeatureRequest(model="sae", feature=D_SAE),
        INVALID,
        "NO_SUCH_FEATURE",
        "feature",
    ),
    (
        "GetFeature",
        pb.GetFeatureRequest(model="sae", feature=-1),
        INVALID,
        "NO_SUCH_FEATURE",
        "feature",
    ),
    (
        "GetContexts",
        pb.GetContextsRequest(model="sae", features=[1, D_SAE]),
        INVALID,
        "NO_SUCH_FEATURE",
        "features[1]",
    ),
    ("GetContexts", pb.GetContextsRequest(model="sae"), INVALID, "BAD_COUNT", "features"),
    (
        "GetContexts",
        pb.GetContextsRequest(model="sae", features=[1] * 257),
        INVALID,
        "BAD_COUNT",
        "features",
    ),
    (
        "GetContexts",
        pb.GetContextsRequest(model="sae", features=[1], group="best"),
        INVALID,
        "BAD_GROUP",
        "group",
    ),
    (
        "GetContexts",
        pb.GetContextsRequest(model="sae", features=[1], count=257),
        INVALID,
        "BAD_COUNT",
        "count",
    ),
    ("SearchToken", pb.SearchTokenRequest(model="sae", text=" "), INVALID, "BAD_FILTER", "text"),
    (
        "SearchToken",
        pb.SearchTokenRequest(model="sae", text="x" * 201),
        INVALID,
        "BAD_FILTER",
        "text",
    ),
    (
        "SearchToken",
        pb.SearchTokenRequest(model="sae", text="x", count=101),
        INVALID,
        "BAD_COUNT",
        "count",
    ),
]
LISTS: list[tuple[dict[str, Any], str, str]] = [
    ({"order_by": "size"}, "BAD_ORDER", "order_by"),
    ({"page_size": -1}, "BAD_COUNT", "page_size"),
    ({"page_size": 1001}, "BAD_COUNT", "page_size"),
    ({"skip": -1}, "BAD_COUNT", "skip"),
    ({"skip": 2**62}, "BAD_COUNT", "skip"),
    ({"page_token": "x"}, "BAD_PAGE_TOKEN", "page_token"),
    (
        {"filter": pb.FeatureFilter(min_density=float("nan"))},
        "BAD_FILTER",
        "filter.min_density",
    ),
    ({"filter": pb.FeatureFilter(label="x" * 201)}, "BAD_FILTER", "filter.label"),
    ({"filter": pb.FeatureFilter(features=[1] * 1001)}, "BAD_COUNT", "filter.features"),
]
REFUSED.extend(
    ("ListFeatures", pb.ListFeaturesRequest(model="sae", **changes), INVALID, reason, field)
    for changes, reason, field in LISTS
)


@pytest.mark.parametrize(("method", "request_", "code", "reason", "field"), REFUSED)
def test_wrong_input_is_named(
    deployment: Deployment,
    method: str,
    request_: Message,
    code: grpc.StatusCode,
    reason: str,
    field: str,
) -> None:
    found = refusal(getattr(deployment.stub, method), request_)
    assert (found[0], found[2], found[3]) == (code, reason, field), found[1]
    assert " — " in found[1]


def test_a_model_without_a_bundle_says_how_to_make_one(deployment: Deployment) -> None:
    deployment.publish("bare")
    with deployment.client() as client, pytest.raises(PreconditionError) as caught:
        client.features.get("bare", 1)
    assert (caught.value.reason, caught.value.field) == ("NO_BUNDLE", "model")
    assert "saeserve submit collect --model bare@1" in caught.value.remedy


def half_written(folder: Path) -> None:
    (folder / schema.DATABASE_FILE).write_bytes((folder / schema.DATABASE_FILE).read_bytes()[:5000])


def without_database(folder: Path) -> None:
    (folder / schema.DATABASE_FILE).unlink()


def of_another_version(folder: Path) -> None:
    data = bytearray((folder / schema.DATABASE_FILE).read_bytes())
    data[60:64] = (99).to_bytes(4, "big")  # SQLite's user_version
    (folder / schema.DATABASE_FILE).write_bytes(data)


def with_short_tokens(folder: Path) -> None:
    (folder / schema.TOKEN_FILE).write_bytes((folder / schema.TOKEN_FILE).read_bytes()[:-4])


def with_other_sequences(folder: Path) -> None:
    shutil.copy(folder / schema.TOKEN_FILE, folder / schema.SEQUENCE_FILE)


DAMAGES: dict[Callable[[Path], None], str] = {
    half_written: "was not finished",
    without_database: "is missing",
    of_another_version: "version 99",
    with_short_tokens: "was not finished",
    with_other_sequences: "was not finished",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_not_a_whole_bundle_is_passed_over_and_named(
    deployment: Deployment, damage: Callable[[Path], None]
) -> None:
    name = damage.__name__.replace("_", "-")
    deployment.publish(name)
    damage(deployment.bundle(name, NEW))
    with deployment.client() as client:
        for asked, field in (("", "model"), (NEW, "job")):
            with pytest.raises(PreconditionError, match=DAMAGES[damage]) as caught:
                client.features.describe(name, job=asked)
            assert (caught.value.reason, caught.value.field) == ("BAD_FORMAT", field)
        deployment.bundle(name, OLD)
        assert client.features.describe(name).job == OLD
        with pytest.raises(PreconditionError, match=DAMAGES[damage]):
            client.features.describe(name, job=NEW)


def test_a_bundle_of_other_weights_is_refused(deployment: Deployment) -> None:
    deployment.publish("moved", 0, seed=0)
    deployment.publish("moved", 1, seed=1)
    made = deployment.bundle("moved@1", OLD)
    shutil.copytree(made, deployment.store.path(f"features/moved/2/{OLD}"))
    with deployment.client() as client:
        assert client.features.describe("moved@1").job == OLD
        with pytest.raises(PreconditionError, match="moved@1") as caught:
            client.features.describe("moved@2")
    assert caught.value.reason == "BUNDLE_OF_ANOTHER_MODEL"


def test_pages_stay_with_their_bundle(deployment: Deployment) -> None:
    deployment.publish("growing")
    deployment.bundle("growing", OLD, seed=1)
    with deployment.client() as client:
        first = client.features.page("growing", size=10)
        whole = client.features.page("growing", size=100)
        deployment.bundle("growing", NEW, seed=2)
        token = first.next_page_token
        second = client.features.page("growing", size=10, token=token)
        assert (first.job, second.job) == (OLD, OLD)
        assert second.features == whole.features[10:20]
        assert client.features.page("growing", size=10).job == NEW
        with pytest.raises(InvalidArgumentError) as caught:
            client.features.page("growing", size=10, token=token, ascending=True)
        assert caught.value.reason == "BAD_PAGE_TOKEN"
        deployment.store.remove(f"features/growing/1/{OLD}")
        with pytest.raises(PreconditionError) as stale:
            client.features.page("growing", size=10, token=token)
        assert (stale.value.reason, stale.value.field) == ("STALE_PAGE_TOKEN", "page_token")


def test_a_deleted_version_takes_its_bundles_along(deployment: Deployment) -> None:
    deployment.publish("doomed")
    deployment.bundle("doomed", OLD)
    with deployment.client() as client:
        token = client.features.page("doomed", size=10).next_page_token
        deployment.delete("doomed@1")
        assert not deployment.store.exists("features/doomed/1")
        for call in (client.features.describe, client.features.page):
            with pytest.raises(NotFoundError) as caught:
                call("doomed@1")
            assert caught.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(PreconditionError) as stale:
            client.features.page("doomed", size=10, token=token)
        assert stale.value.reason == "STALE_PAGE_TOKEN"


def test_reads_in_parallel_while_bundles_come_and_go(deployment: Deployment) -> None:
    """Every answer is that of a whole bundle, or says that there is none."""
    deployment.publish("busy")
    first = deployment.bundle("busy", "j-0", seed=5)
    shutil.copytree(first, deployment.root / "kept")
    done = Event()
    with deployment.client() as client:
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
                deployment.store.remove(f"features/busy/1/j-{job}")
                time.sleep(0.01)
                shutil.copytree(deployment.root / "kept", deployment.root / "copy")
                (deployment.root / "copy").rename(first.with_name(f"j-{job + 1}"))
                time.sleep(0.03)
            done.set()
            counts = [each.result() for each in reads]
    wrong, right, absent = map(sum, zip(*counts, strict=True))
    assert wrong == 0
    assert right > 10
    assert absent > 0
