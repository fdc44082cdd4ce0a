"""What FeatureService refuses: wrong input, and bundles that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from tests.fakes.bundle_store import D_SAE, NEW, OLD, Deployment
from tests.fakes.inference_server import INVALID, refusal

from saeserve.client.errors import PreconditionError
from saeserve.core.features import schema
from saeserve.v1 import feature_service_pb2 as pb

ABSENT = grpc.StatusCode.NOT_FOUND
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
    bundles: Deployment,
    method: str,
    request_: Message,
    code: grpc.StatusCode,
    reason: str,
    field: str,
) -> None:
    found = refusal(getattr(bundles.stub, method), request_)
    assert (found[0], found[2], found[3]) == (code, reason, field), found[1]
    assert " — " in found[1]


def test_a_model_without_a_bundle_says_how_to_make_one(bundles: Deployment) -> None:
    bundles.publish("bare")
    with bundles.client() as client, pytest.raises(PreconditionError) as caught:
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
    bundles: Deployment, damage: Callable[[Path], None]
) -> None:
    name = damage.__name__.replace("_", "-")
    bundles.publish(name)
    damage(bundles.bundle(name, NEW))
    with bundles.client() as client:
        for asked, field in (("", "model"), (NEW, "job")):
            with pytest.raises(PreconditionError, match=DAMAGES[damage]) as caught:
                client.features.describe(name, job=asked)
            assert (caught.value.reason, caught.value.field) == ("BAD_FORMAT", field)
        bundles.bundle(name, OLD)
        assert client.features.describe(name).job == OLD
        with pytest.raises(PreconditionError, match=DAMAGES[damage]):
            client.features.describe(name, job=NEW)


def test_a_bundle_of_other_weights_is_refused(bundles: Deployment) -> None:
    bundles.publish("moved", 0, seed=0)
    bundles.publish("moved", 1, seed=1)
    made = bundles.bundle("moved@1", OLD)
    shutil.copytree(made, bundles.store.path(f"features/moved/2/{OLD}"))
    with bundles.client() as client:
        assert client.features.describe("moved@1").job == OLD
        with pytest.raises(PreconditionError, match="moved@1") as caught:
            client.features.describe("moved@2")
    assert caught.value.reason == "BUNDLE_OF_ANOTHER_MODEL"
