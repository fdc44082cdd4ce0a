"""The feature that the demo steers: a word's, and the one whose label predicts best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from saeserve.client import Client
from saeserve.client.feature_values import FeatureSummary
from saeserve.demo.steering import best_feature


@dataclass
class _Features:
    known: list[FeatureSummary]

    def list(self, _model: str, **_: Any) -> list[FeatureSummary]:  # noqa: ANN401 - of the SDK
        return self.known


@dataclass
class _Client:
    features: _Features


def _chosen(*known: FeatureSummary) -> int | None:
    found = best_feature(cast(Client, _Client(_Features(list(known)))), "sae")
    return None if found is None else found.feature


def _summary(feature: int, label: str | None, precision: float, recall: float) -> FeatureSummary:
    return FeatureSummary(feature, 100, 0.01, 3.0, 1.0, label, precision, recall)


def test_the_best_predicted_word_is_steered() -> None:
    assert _chosen(_summary(1, "␣king", 0.9, 0.5), _summary(2, "␣LORD, ␣God", 0.9, 0.8)) == 2


def test_signs_and_labels_that_miss_most_firings_are_passed_over() -> None:
    signs = _summary(1, "_, ␣_", 1.0, 0.9)
    assert _chosen(signs, _summary(2, "␣king", 0.9, 0.4), _summary(3, "␣sea", 1.0, 0.1)) == 2
    assert _chosen(signs, _summary(4, None, 0.0, 0.0)) is None
