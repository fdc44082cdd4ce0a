"""The gRPC shell of FeatureService: read a request, look into the bundle, write the answer."""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from saeserve.errors import NotFound
from saeserve.inference.bundle_handlers import BundleHandlers
from saeserve.inference.bundle_reads import stale_page
from saeserve.inference.converters import bundle_answers as answers
from saeserve.inference.converters import bundle_requests as requests
from saeserve.inference.servicer import Context
from saeserve.inference.work import Operation
from saeserve.platform.auth.rules import LOOK, Rule
from saeserve.platform.grpc_server import Service
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.FeatureService"
METHODS = ("DescribeBundle", "ListFeatures", "GetFeature", "GetContexts", "SearchToken")
RULES: dict[str, Rule] = dict.fromkeys(METHODS, LOOK)


class FeatureServicer(pb_grpc.FeatureServiceServicer):
    """saeserve.v1.FeatureService. Answers are written in the thread that reads."""

    def __init__(self, handlers: BundleHandlers) -> None:
        self._look = handlers.look

    @override
    async def DescribeBundle(
        self, request: pb.DescribeBundleRequest, context: Context
    ) -> pb.DescribeBundleResponse:
        """What a bundle was made of."""
        asked = requests.describe_query(request)
        return await self._look(Operation.DESCRIBE_BUNDLE, asked, answers.describe_answer)

    @override
    async def ListFeatures(
        self, request: pb.ListFeaturesRequest, context: Context
    ) -> pb.ListFeaturesResponse:
        """One page of features."""
        query = requests.list_query(request)
        answer = partial(answers.list_answer, query)
        try:
            return await self._look(Operation.LIST_FEATURES, query.asked, answer)
        except NotFound:
            if query.continued:
                raise stale_page() from None
            raise

    @override
    async def GetFeature(
        self, request: pb.GetFeatureRequest, context: Context
    ) -> pb.GetFeatureResponse:
        """Everything that the bundle holds of it."""
        query = requests.feature_query(request)
        answer = partial(answers.feature_answer, query)
        return await self._look(Operation.GET_FEATURE, query.asked, answer)

    @override
    async def GetContexts(
        self, request: pb.GetContextsRequest, context: Context
    ) -> pb.GetContextsResponse:
        """Contexts of some features."""
        query = requests.contexts_query(request)
        answer = partial(answers.contexts_answer, query)
        return await self._look(Operation.GET_CONTEXTS, query.asked, answer)

    @override
    async def SearchToken(
        self, request: pb.SearchTokenRequest, context: Context
    ) -> pb.SearchTokenResponse:
        """Tokens, and what fires on them."""
        query = requests.token_query(request)
        answer = partial(answers.token_answer, query)
        return await self._look(Operation.SEARCH_TOKEN, query.asked, answer)


def feature_service(handlers: BundleHandlers) -> Service:
    """The service, to be added to a server."""
    servicer = FeatureServicer(handlers)
    return Service(
        NAME,
        lambda server: pb_grpc.add_FeatureServiceServicer_to_server(servicer, server),
        rules=RULES,
    )
