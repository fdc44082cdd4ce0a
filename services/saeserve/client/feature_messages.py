"""Messages of FeatureService, and the values of the SDK."""

from __future__ import annotations

from collections.abc import Iterable

from saeserve.client.feature_values import (
    Feature,
    FeatureBundle,
    FeatureContext,
    FeatureFilter,
    FeatureHistogram,
    FeatureInterval,
    FeatureLabel,
    FeaturePage,
    FeatureSummary,
    Proportion,
    TokenFeature,
    TokenFeatures,
    TokenScore,
)
from saeserve.client.steering import Neighbour
from saeserve.client.wire import instant
from saeserve.v1 import feature_service_pb2 as pb


def filter_message(where: FeatureFilter) -> pb.FeatureFilter:
    """A filter as it is sent."""
    return pb.FeatureFilter(
        min_density=where.min_density,
        max_density=where.max_density,
        min_max=where.min_max,
        dead=where.dead,
        label=where.label,
        features=where.features,
    )


def bundle_value(bundle: pb.Bundle) -> FeatureBundle:
    """A bundle off the wire."""
    return FeatureBundle(
        model=bundle.model,
        job=bundle.job,
        created=instant(bundle.create_time),
        size_bytes=bundle.size_bytes,
        dataset=bundle.dataset,
        dataset_sha256=bundle.dataset_sha256,
        source=bundle.source,
        language_model=bundle.language_model,
        hook=bundle.hook,
        d_sae=bundle.d_sae,
        rows=bundle.rows,
        rows_left_out=bundle.rows_left_out,
        tokens=bundle.tokens,
        sequences=bundle.sequences,
        seed=bundle.seed,
        firing_features=bundle.firing_features,
        labelled_features=bundle.labelled_features,
        top=bundle.top,
        uniform=bundle.uniform,
        intervals=bundle.intervals,
        per_interval=bundle.per_interval,
        window=bundle.window,
        logits=bundle.logits,
        neighbours=bundle.neighbours,
        jobs=tuple(bundle.jobs),
    )


def page_value(answer: pb.ListFeaturesResponse) -> FeaturePage:
    """A page off the wire."""
    return FeaturePage(
        tuple(map(_summary, answer.features)),
        answer.total_size,
        answer.next_page_token,
        answer.resolved_model,
        answer.job,
    )


def feature_value(answer: pb.GetFeatureResponse) -> Feature:
    """A feature off the wire."""
    found = answer.feature
    return Feature(
        summary=_summary(found.summary),
        labels=tuple(map(_label, found.labels)),
        moments=tuple(found.moments),
        histogram=FeatureHistogram(tuple(found.histogram.edges), tuple(found.histogram.counts)),
        top=contexts_value(found.top),
        uniform=contexts_value(found.uniform),
        intervals=tuple(
            FeatureInterval(each.low, each.high, each.count, contexts_value(each.contexts))
            for each in found.intervals
        ),
        logits_up=_scores(found.logits_up),
        logits_down=_scores(found.logits_down),
        neighbours=tuple(Neighbour(each.feature, each.cosine) for each in found.neighbours),
        model=answer.resolved_model,
        job=answer.job,
    )


def contexts_value(contexts: Iterable[pb.FeatureContext]) -> tuple[FeatureContext, ...]:
    """Contexts off the wire."""
    return tuple(
        FeatureContext(
            document=each.document,
            sequence=each.sequence,
            position=each.position,
            value=each.value,
            peak=each.peak,
            tokens=tuple(each.tokens),
            texts=tuple(each.texts),
            activations=tuple(each.activations),
        )
        for each in contexts
    )


def tokens_value(answer: pb.SearchTokenResponse) -> tuple[TokenFeatures, ...]:
    """Tokens off the wire."""
    return tuple(
        TokenFeatures(
            each.token,
            each.text,
            each.count,
            tuple(TokenFeature(one.feature, one.score) for one in each.features),
        )
        for each in answer.tokens
    )


def _summary(found: pb.FeatureSummary) -> FeatureSummary:
    return FeatureSummary(
        feature=found.feature,
        count=found.count,
        density=found.density,
        max=found.max,
        mean=found.mean,
        label=found.label if found.HasField("label") else None,
        label_precision=found.label_precision if found.HasField("label_precision") else None,
        label_recall=found.label_recall if found.HasField("label_recall") else None,
    )


def _label(label: pb.FeatureLabel) -> FeatureLabel:
    precision = _proportion(label.precision) if label.HasField("precision") else None
    recall = _proportion(label.recall) if label.HasField("recall") else None
    return FeatureLabel(label.text, label.kind, precision, recall)


def _proportion(share: pb.Proportion) -> Proportion:
    low = share.low if share.HasField("low") else None
    high = share.high if share.HasField("high") else None
    return Proportion(share.value, low, high, share.n)


def _scores(scores: Iterable[pb.TokenScore]) -> tuple[TokenScore, ...]:
    return tuple(TokenScore(each.token, each.text, each.score) for each in scores)
