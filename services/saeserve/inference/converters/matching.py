"""Messages of MatchFeatures, and the values that its handler knows."""

from __future__ import annotations

from saeserve.inference.converters.rows import model_name
from saeserve.inference.match_handlers import Matched
from saeserve.v1 import inference_service_pb2 as pb


def match_query(request: pb.MatchFeaturesRequest) -> tuple[str, str]:
    """The names of both models. Raises InvalidInput where one is missing."""
    return model_name(request.model), model_name(request.other, "other")


def match_response(answer: Matched) -> pb.MatchFeaturesResponse:
    """Write a MatchFeaturesResponse."""
    found = answer.found
    return pb.MatchFeaturesResponse(
        features=found.compared_N.cpu().numpy(),
        matches=found.nearest_N.cpu().numpy(),
        cosines=found.cosine_N.cpu().numpy(),
        mutual=found.mutual_N.cpu().numpy(),
        live_features=found.live,
        other_live_features=found.other_live,
        resolved_model=answer.model,
        resolved_other=answer.other,
    )
