"""Features of a model that exists nowhere, as FeatureService has them: planted by arithmetic, and
with hostile text in their tokens."""

from __future__ import annotations

import math
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Never

import grpc
from grpc_status import rpc_status
from typing_extensions import override

from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, ServiceError
from saeserve.platform import status
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc
from saeserve.v1 import inference_service_pb2 as serving

D_SAE, ROWS = 200, 100_000
JOB, OLDER = "j-collected", "j-before"
HOSTILE = "<img src=x onerror=alert(1)>"
WORDS = (" the", " king", "\n", " of", " Israel", "\u202e", ",", HOSTILE, "  ", " said", " unto")
DEAD = 3
"""Every feature whose number has this rest by 7 never fires."""
SERVING = "saeserve.v1.InferenceService"
BARE = "bare"
"""A name of a model of which nothing was collected."""


class PlantedFeatures(feature_service_pb2_grpc.FeatureServiceServicer):
    """What every model but BARE has; bundles of two jobs hold the same."""

    @override
    def DescribeBundle(
        self, request: pb.DescribeBundleRequest, context: grpc.ServicerContext
    ) -> pb.DescribeBundleResponse:
        job = _job(request, context)
        bundle = pb.Bundle(
            model=_resource(request),
            job=job,
            dataset="acts",
            language_model="mine:lm",
            hook="resid_post.2",
            d_sae=D_SAE,
            rows=ROWS,
            rows_left_out=7,
            logits="Decoder rows times the unembedding, without the final norm.",
            jobs=[JOB, OLDER],
        )
        return pb.DescribeBundleResponse(bundle=bundle)

    @override
    def ListFeatures(
        self, request: pb.ListFeaturesRequest, context: grpc.ServicerContext
    ) -> pb.ListFeaturesResponse:
        job, key = _job(request, context), request.order_by or "density"
        lines = [line for line in map(_line, range(D_SAE)) if _passes(line, request.filter)]
        lines.sort(key=lambda line: getattr(line, key), reverse=not request.ascending)
        return pb.ListFeaturesResponse(
            features=lines[request.skip : request.skip + request.page_size],
            total_size=len(lines),
            resolved_model=_resource(request),
            job=job,
        )

    @override
    def GetFeature(
        self, request: pb.GetFeatureRequest, context: grpc.ServicerContext
    ) -> pb.GetFeatureResponse:
        job, number = _job(request, context), request.feature
        if not 0 <= number < D_SAE:
            _refuse(context, InvalidInput(f"{number} is no feature", code="X", field="feature"))
        return pb.GetFeatureResponse(
            feature=_feature(_line(number)), resolved_model=_resource(request), job=job
        )

    @override
    def GetContexts(
        self, request: pb.GetContextsRequest, context: grpc.ServicerContext
    ) -> pb.GetContextsResponse:
        raise NotImplementedError("no page asks for contexts of features by name")

    @override
    def SearchToken(
        self, request: pb.SearchTokenRequest, context: grpc.ServicerContext
    ) -> pb.SearchTokenResponse:
        text = request.text.strip()
        known = [n for n, word in enumerate(WORDS) if word.strip().startswith(text)]
        fires = [pb.TokenFeature(feature=feature, score=9.0) for feature in (1, 4, 9)]
        return pb.SearchTokenResponse(
            tokens=[
                pb.TokenFeatures(token=n, text=WORDS[n], count=400 + n, features=fires)
                for n in known
            ],
            resolved_model=_resource(request),
            job=_job(request, context),
        )


def _matches(request: Any, context: Any) -> serving.MatchFeaturesResponse:  # noqa: ANN401 - of grpc
    """Every second feature has a mutual match, less and less alike."""
    if request.other.partition("@")[0] == BARE:
        _refuse(context, InvalidInput("they have no width in common", code="WIDTHS_DIFFER"))
    return serving.MatchFeaturesResponse(
        features=range(D_SAE),
        matches=[D_SAE - 1 - feature for feature in range(D_SAE)],
        cosines=[1 - feature / D_SAE for feature in range(D_SAE)],
        mutual=[feature % 2 == 0 for feature in range(D_SAE)],
        live_features=D_SAE,
        other_live_features=D_SAE - 1,
        resolved_model=_resource(request),
        resolved_other=request.other,
    )


@contextmanager
def planted() -> Generator[str]:
    """The address of a server of such features."""
    server = grpc.server(ThreadPoolExecutor(4))
    feature_service_pb2_grpc.add_FeatureServiceServicer_to_server(PlantedFeatures(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    match = grpc.unary_unary_rpc_method_handler(
        _matches,
        request_deserializer=serving.MatchFeaturesRequest.FromString,
        response_serializer=serving.MatchFeaturesResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(SERVING, {"MatchFeatures": match})
    server.add_generic_rpc_handlers((handler,))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _job(request: Any, context: Any) -> str:  # noqa: ANN401 - any request
    """The job whose bundle answers."""
    if request.model.partition("@")[0] == BARE:
        _refuse(context, FailedPrecondition("nothing was collected", code="NO_BUNDLE"))
    if request.job not in ("", JOB, OLDER):
        _refuse(context, NotFound(f"no bundle of job {request.job}", code="BUNDLE_NOT_FOUND"))
    return str(request.job) or JOB


def _refuse(context: Any, error: ServiceError) -> Never:  # noqa: ANN401 - of grpc, without types
    context.abort_with_status(rpc_status.to_status(status.rpc_status(error)))
    raise AssertionError


def _resource(request: Any) -> str:  # noqa: ANN401 - any request
    name, _, version = request.model.partition("@")
    return f"models/{name}/versions/{version}"


def _feature(line: pb.FeatureSummary) -> pb.Feature:
    feature, fires = line.feature, bool(line.count)
    shown = [_context(feature, n, line.max) for n in range(14)] if fires else []
    labels = [
        pb.FeatureLabel(
            text="kings of Israel",
            kind="top tokens",
            precision=pb.Proportion(value=0.93, low=0.9, high=0.95, n=412),
            recall=pb.Proportion(value=0.71, n=531),
        ),
        pb.FeatureLabel(text="after “ the”", kind="n-grams"),
    ]
    return pb.Feature(
        summary=line,
        labels=labels if line.HasField("label") else [],
        histogram=pb.FeatureHistogram(
            edges=[2.0 ** (n / 4 - 4) for n in range(65)],
            counts=[_count(n) if fires else 0 for n in range(64)],
        ),
        top=shown,
        uniform=shown[3:8],
        intervals=[
            pb.FeatureInterval(low=4.0, high=8.0, count=120, contexts=shown[:3]),
            pb.FeatureInterval(low=2.0, high=4.0, count=950, contexts=shown[3:5]),
        ],
        logits_up=[pb.TokenScore(token=n, text=WORDS[n], score=2.0 - n / 5) for n in range(5)],
        logits_down=[
            pb.TokenScore(token=n, text=WORDS[n], score=n / 5 - 2.0) for n in range(5, 10)
        ],
        neighbours=[
            pb.FeatureNeighbour(feature=(feature + n) % D_SAE, cosine=0.9 - n / 10)
            for n in (1, 2, 3)
        ],
    )


def _line(feature: int) -> pb.FeatureSummary:
    if feature % 7 == DEAD:
        return pb.FeatureSummary(feature=feature)
    count = 4 + (feature * 7919) % 5000
    largest = 4 + feature % 5
    return pb.FeatureSummary(
        feature=feature,
        count=count,
        density=count / ROWS,
        max=largest,
        mean=largest / 3,
        label="kings of Israel" if feature % 2 else HOSTILE if feature == 4 else None,
    )


def _passes(line: pb.FeatureSummary, where: pb.FeatureFilter) -> bool:
    return (
        (not where.HasField("min_density") or line.density >= where.min_density)
        and (not where.HasField("max_density") or line.density <= where.max_density)
        and (not where.HasField("dead") or where.dead == (line.count == 0))
        and where.label in line.label
        and (not where.features or line.feature in where.features)
    )


def _count(at: int) -> int:
    return int(900 * math.exp(-((at - 18) ** 2) / 60))


def _context(feature: int, number: int, largest: float) -> pb.FeatureContext:
    return pb.FeatureContext(
        document=number,
        sequence=17 * number,
        value=largest,
        peak=15,
        tokens=range(24),
        texts=[WORDS[(feature + number + n) % len(WORDS)] for n in range(24)],
        activations=[largest * (n - 9) / 6 if 10 <= n <= 15 else 0.0 for n in range(24)],
    )
