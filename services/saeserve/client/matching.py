"""Features of two models that were matched, as the SDK hands them out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve.client.features import IntArray
from saeserve.v1 import inference_service_pb2 as pb


@dataclass(frozen=True)
class FeatureMatches:
    """For features of a model, the feature of another whose decoder row has the largest cosine.

    `features` ascend: all that are not dead or, of wide models, some chosen by a hash of their
    numbers. `matches`, `cosines` and `mutual` (each is the nearest to the other) belong to them.
    """

    features: IntArray
    matches: IntArray
    cosines: npt.NDArray[np.float64]
    mutual: npt.NDArray[np.bool_]
    live_features: int
    other_live_features: int
    """Features of each model that are not dead: their decoder rows are not zero."""
    model: str
    other: str
    """models/<name>/versions/<n> that were matched."""

    def share(self, at_least: float) -> float:
        """Share of the compared features whose match has a cosine of `at_least`; NaN of none.

        >>> client.inference.match_features("my-sae@2", "my-sae@1").share(0.7)
        """
        return float((self.cosines >= at_least).mean()) if len(self.cosines) else float("nan")


def matches_value(answer: pb.MatchFeaturesResponse) -> FeatureMatches:
    """Matches off the wire."""
    return FeatureMatches(
        features=np.array(answer.features, np.int64),
        matches=np.array(answer.matches, np.int64),
        cosines=np.array(answer.cosines, np.float64),
        mutual=np.array(answer.mutual, np.bool_),
        live_features=answer.live_features,
        other_live_features=answer.other_live_features,
        model=answer.resolved_model,
        other=answer.resolved_other,
    )
