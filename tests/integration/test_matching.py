"""MatchFeatures over gRPC and through the SDK."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes.inference_server import INVALID, Service, refusal
from tests.fakes.small_model import small_model
from tests.fakes.tiny_models import listed
from torch.nn.functional import normalize

from saeserve.client import Client
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.inference import match_handlers
from saeserve.v1 import inference_service_pb2 as pb


def test_features_of_two_models_are_matched(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, others = (normalize(service.models[name].W_dec, dim=1) for name in ("topk", "crosscoder"))
    best, nearest = (rows @ others.T).max(dim=1)
    with Client(service.address, service.address) as client:
        found = client.inference.match_features("topk", "crosscoder")
        monkeypatch.setattr(match_handlers, "matches", None)
        kept = client.inference.match_features("topk@1", "crosscoder@1")
    assert (found.model, found.other) == ("models/topk/versions/1", "models/crosscoder/versions/1")
    assert found.features.tolist() == list(range(len(rows)))
    assert found.matches.tolist() == listed(nearest)
    np.testing.assert_allclose(found.cosines, best.numpy(), atol=1e-6)
    back = (rows @ others.T).argmax(dim=0)
    assert found.mutual.tolist() == listed(back[nearest] == torch.arange(len(rows)))
    assert found.share(0.5) == pytest.approx(float((best >= 0.5).double().mean()))
    np.testing.assert_array_equal(kept.matches, found.matches)


def test_a_model_matches_itself_and_none_has_no_share(service: Service) -> None:
    with Client(service.address, service.address) as client:
        found = client.inference.match_features("topk", "topk")
    assert found.share(0.999) == 1
    assert found.mutual.all()
    assert math.isnan(replace(found, cosines=found.cosines[:0]).share(0.7))


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (pb.MatchFeaturesRequest(model="topk"), "other", "no model is named"),
        (pb.MatchFeaturesRequest(model="topk", other="wide"), "other", "writes rows of width 6"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    service: Service, tmp_path: Path, request_: pb.MatchFeaturesRequest, field: str, words: str
) -> None:
    save_model(small_model(TopKActivation(k=4), d_in=8), tmp_path / "wide")
    service.registry.publish("wide", "j-test", 0, tmp_path / "wide")
    code, message, _, where = refusal(service.stub.MatchFeatures, request_)
    assert (code, where) == (INVALID, field)
    assert words in message
