"""Answers of FeatureService, written from what was read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from saeserve.core.features.schema import BUNDLE_FILES, DATABASE_FILE
from saeserve.core.features.values import (
    Context,
    Feature,
    FeatureSummary,
    Interval,
    Label,
    TokenScore,
)
from saeserve.core.labels.label import Proportion
from saeserve.inference import bundle_reads
from saeserve.inference.bundle_handlers import Opened
from saeserve.inference.bundle_reads import ContextsQuery, FeatureQuery, ListQuery, TokenQuery
from saeserve.inference.converters.bundle_requests import next_page_token
from saeserve.inference.refusals import too_large
from saeserve.platform.pages import fitting
from saeserve.v1 import feature_service_pb2 as pb

MOST_BYTES = 4 * 2**20 - 2**16
"""gRPC clients take 4 MiB unless configured."""
ResponseT = TypeVar("ResponseT", bound=Message)


def describe_answer(opened: Opened) -> pb.DescribeBundleResponse:
    """Write what a bundle was made of."""
    bundle, known = opened.bundle, opened.bundle.manifest
    same = ("dataset", "dataset_sha256", "source", "language_model", "hook", "d_sae", "rows")
    same += ("tokens", "sequences", "seed", "top", "uniform", "intervals", "per_interval")
    message = pb.Bundle(
        model=opened.resource,
        job=opened.job,
        size_bytes=sum((opened.folder / name).stat().st_size for name in BUNDLE_FILES),
        rows_left_out=known.left_out,
        firing_features=bundle.firing_features(),
        labelled_features=bundle.labelled_features(),
        window=known.window,
        logits=known.logits or "",
        neighbours=known.neighbours,
        jobs=opened.jobs,
        **{name: getattr(known, name) for name in same},
    )
    message.create_time.FromSeconds(int((opened.folder / DATABASE_FILE).stat().st_mtime))
    return pb.DescribeBundleResponse(bundle=message)


def list_answer(query: ListQuery, opened: Opened) -> pb.ListFeaturesResponse:
    """Read and write a page, which ends early rather than become too large."""
    found = bundle_reads.page(query, opened)
    features = fitting(map(_summary, found.features))
    end = query.offset + len(features)
    more = features and end < found.total
    return pb.ListFeaturesResponse(
        features=features,
        next_page_token=next_page_token(query, opened.resource, opened.job, end) if more else "",
        total_size=found.total,
        resolved_model=opened.resource,
        job=opened.job,
    )


def feature_answer(query: FeatureQuery, opened: Opened) -> pb.GetFeatureResponse:
    """Read and write one feature. Raises InvalidInput for one that the model does not have."""
    message = _feature(bundle_reads.feature(query, opened))
    return _bounded(
        pb.GetFeatureResponse(feature=message, resolved_model=opened.resource, job=opened.job),
        "call GetContexts for some of its contexts",
    )


def contexts_answer(query: ContextsQuery, opened: Opened) -> pb.GetContextsResponse:
    """Read and write contexts. Raises InvalidInput for a feature that the model does not have, and
    for more than an answer may hold."""
    found = [
        pb.ContextsOfFeature(feature=feature, contexts=map(_context, contexts))
        for feature, contexts in bundle_reads.contexts(query, opened)
    ]
    return _bounded(
        pb.GetContextsResponse(features=found, resolved_model=opened.resource, job=opened.job),
        "ask for fewer features or contexts at a time",
    )


def token_answer(query: TokenQuery, opened: Opened) -> pb.SearchTokenResponse:
    """Search and write tokens."""
    found = opened.bundle.search_token(query.text, query.count)
    tokens = [
        pb.TokenFeatures(
            token=each.token,
            text=each.text,
            count=each.count,
            features=[
                pb.TokenFeature(feature=one.feature, score=one.score) for one in each.features
            ],
        )
        for each in found
    ]
    return _bounded(
        pb.SearchTokenResponse(tokens=tokens, resolved_model=opened.resource, job=opened.job),
        "ask for fewer tokens",
    )


def _feature(found: Feature) -> pb.Feature:
    return pb.Feature(
        summary=_summary(found.summary),
        labels=[_label(each) for each in (found.label, *found.other_labels) if each is not None],
        moments=found.moments,
        histogram=pb.FeatureHistogram(edges=found.histogram.edges, counts=found.histogram.counts),
        top=map(_context, found.top),
        uniform=map(_context, found.uniform),
        intervals=map(_interval, found.intervals),
        logits_up=_scores(found.logits_up),
        logits_down=_scores(found.logits_down),
        neighbours=[
            pb.FeatureNeighbour(feature=each.feature, cosine=each.cosine)
            for each in found.neighbours
        ],
    )


def _summary(found: FeatureSummary) -> pb.FeatureSummary:
    return pb.FeatureSummary(
        feature=found.feature,
        count=found.count,
        density=found.density,
        max=found.max,
        mean=found.mean,
        label=found.label,
        label_precision=found.precision,
        label_recall=found.recall,
    )


def _label(label: Label) -> pb.FeatureLabel:
    return pb.FeatureLabel(
        text=label.text,
        kind=label.source,
        precision=_proportion(label.precision),
        recall=_proportion(label.recall),
    )


def _proportion(share: Proportion) -> pb.Proportion | None:
    """Unset where nothing was counted."""
    if not share.n:
        return None
    return pb.Proportion(value=share.value, low=share.low, high=share.high, n=share.n)


def _context(context: Context) -> pb.FeatureContext:
    return pb.FeatureContext(
        document=context.document,
        sequence=context.sequence,
        value=context.value,
        peak=context.peak,
        tokens=context.tokens,
        texts=context.texts,
        activations=context.activations,
        position=context.position,
    )


def _interval(interval: Interval) -> pb.FeatureInterval:
    contexts = map(_context, interval.contexts)
    return pb.FeatureInterval(
        low=interval.low, high=interval.high, count=interval.count, contexts=contexts
    )


def _scores(scores: Iterable[TokenScore]) -> list[pb.TokenScore]:
    return [pb.TokenScore(token=each.token, text=each.text, score=each.score) for each in scores]


def _bounded(response: ResponseT, remedy: str) -> ResponseT:
    """`response` itself. Raises InvalidInput for one that many clients would not take."""
    size = response.ByteSize()
    if size > MOST_BYTES:
        raise too_large(f"the answer has {size} bytes; {MOST_BYTES} are sent", remedy=remedy)
    return response
