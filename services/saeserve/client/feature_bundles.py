"""The features half of the SDK: what the features of a model fire on, as a collect job found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import grpc
from google.protobuf.message import Message

from saeserve.client.errors import translated
from saeserve.client.feature_messages import (
    bundle_value,
    contexts_value,
    feature_value,
    filter_message,
    page_value,
    tokens_value,
)
from saeserve.client.feature_values import (
    Feature,
    FeatureBundle,
    FeatureContext,
    FeatureFilter,
    FeaturePage,
    FeatureSummary,
    TokenFeatures,
)
from saeserve.client.retries import Limit, patiently
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc

ResponseT = TypeVar("ResponseT")
Order = Literal["density", "max", "feature"]
Group = Literal["top", "uniform", "intervals"]
_PAGE = 1000
NO_FILTER = FeatureFilter()


class Features:
    """Calls of FeatureService.

    A collect job (`saeserve submit collect`) makes a bundle of a model version: what each of its
    features fires on in a data set. Every method reads the version's newest bundle, or that of the
    collect job `job`; a model of which nothing was collected raises PreconditionError. `timeout`
    bounds a call, left out the client's does.
    """

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def describe(self, model: str, *, job: str = "", timeout: float | None = None) -> FeatureBundle:
        """What a bundle was made of, and what is in it.

        >>> bundle = client.features.describe("my-sae@prod")
        >>> bundle.dataset, bundle.rows, bundle.firing_features
        """
        request = pb.DescribeBundleRequest(model=model, job=job)
        return bundle_value(self._ask(self._stub.DescribeBundle, request, timeout).bundle)

    def list(
        self,
        model: str,
        *,
        where: FeatureFilter = NO_FILTER,
        order_by: Order = "density",
        ascending: bool = False,
        job: str = "",
        timeout: float | None = None,
    ) -> Iterator[FeatureSummary]:
        """Every feature that `where` lets through, in order; pages are asked for as they are
        needed, each within `timeout`.

        >>> for each in client.features.list("my-sae@prod", order_by="max"):
        ...     print(each.feature, each.density, each.max, each.label)
        ...     break
        """
        token = ""
        while True:
            page = self.page(
                model,
                where=where,
                order_by=order_by,
                ascending=ascending,
                size=_PAGE,
                token=token,
                job=job,
                timeout=timeout,
            )
            yield from page.features
            token = page.next_page_token
            if not token:
                return

    def page(
        self,
        model: str,
        *,
        where: FeatureFilter = NO_FILTER,
        order_by: Order = "density",
        ascending: bool = False,
        skip: int = 0,
        size: int = 50,
        token: str = "",
        job: str = "",
        timeout: float | None = None,
    ) -> FeaturePage:
        """`size` features (at most 1,000) of those that `where` lets through, after `skip` others.

        With the `token` of a page the next one is of the same bundle, whatever was collected since.

        >>> often = FeatureFilter(min_density=0.001)
        >>> page = client.features.page("my-sae@prod", where=often, skip=50)
        >>> page.total, page.features
        """
        request = pb.ListFeaturesRequest(
            model=model,
            job=job,
            page_size=size,
            page_token=token,
            skip=skip,
            order_by=order_by,
            ascending=ascending,
            filter=filter_message(where),
        )
        return page_value(self._ask(self._stub.ListFeatures, request, timeout))

    def get(
        self, model: str, feature: int, *, job: str = "", timeout: float | None = None
    ) -> Feature:
        """All that is known of one feature: figures, labels, contexts, logits, neighbours.

        >>> feature = client.features.get("my-sae@prod", 12)
        >>> for context in feature.top:
        ...     print(context.value, "".join(context.texts))
        """
        request = pb.GetFeatureRequest(model=model, job=job, feature=feature)
        return feature_value(self._ask(self._stub.GetFeature, request, timeout))

    def contexts(
        self,
        model: str,
        features: Sequence[int],
        *,
        group: Group = "top",
        count: int = 10,
        job: str = "",
        timeout: float | None = None,
    ) -> Mapping[int, tuple[FeatureContext, ...]]:
        """For each of at most 256 features, `count` of its firings with the tokens around them: the
        largest, some of all ("uniform"), or some of each octave of magnitude ("intervals").

        >>> for feature, contexts in client.features.contexts("my-sae@prod", [12, 7]).items():
        ...     print(feature, [context.texts[context.peak] for context in contexts])
        """
        request = pb.GetContextsRequest(
            model=model, job=job, features=features, group=group, count=count
        )
        answer = self._ask(self._stub.GetContexts, request, timeout)
        return {each.feature: contexts_value(each.contexts) for each in answer.features}

    def search_token(
        self,
        model: str,
        text: str,
        *,
        count: int = 20,
        job: str = "",
        timeout: float | None = None,
    ) -> tuple[TokenFeatures, ...]:
        """Tokens whose text is `text`, or else begins with it, and the features that fire most on
        each; case and white space around it do not count.

        >>> for token in client.features.search_token("my-sae@prod", "word"):
        ...     print(repr(token.text), [each.feature for each in token.features])
        """
        request = pb.SearchTokenRequest(model=model, job=job, text=text, count=count)
        return tokens_value(self._ask(self._stub.SearchToken, request, timeout))

    def _ask(
        self,
        method: Callable[..., ResponseT],
        request: Message,
        timeout: float | None,
    ) -> ResponseT:
        def send(seconds: float) -> ResponseT:
            with translated(self._address):
                return method(request, timeout=seconds)

        return patiently(send, Limit(timeout, self._timeout).left())
