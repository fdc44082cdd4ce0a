"""Every method says what it asks of its caller; a new one that does not is answered to nobody."""

from __future__ import annotations

import pytest
from tests.fakes.every_call import Method, every_method

from saeserve.control.servicers import datasets, jobs, models, offers, store, transfers
from saeserve.inference import bundle_servicer, servicer
from saeserve.platform.auth.rules import Rule

RULES: dict[str, dict[str, Rule]] = {
    "DatasetService": datasets.RULES,
    "FeatureService": bundle_servicer.RULES,
    "InferenceService": servicer.RULES,
    "JobService": jobs.RULES,
    "ModelService": models.RULES,
    "ServerService": offers.RULES,
    "StoreService": store.RULES,
    "TransferService": transfers.RULES,
}
READING = (
    *("Get", "List", "Watch", "Download", "Encode", "Decode", "Reconstruct"),
    *("Steer", "Neighbours", "MatchFeatures", "TopFeatures", "Describe", "Search"),
)


def declared() -> set[str]:
    return {f"{service}/{method}" for service, rules in RULES.items() for method in rules}


def test_every_method_of_the_api_has_a_rule_and_no_other_has() -> None:
    assert declared() == {method.name for method in every_method()}


@pytest.mark.parametrize("method", every_method(), ids=lambda method: method.name)
def test_a_rule_lets_somebody_in_and_is_not_open(method: Method) -> None:
    rule = RULES[method.service][method.name.partition("/")[2]]
    assert rule.scopes
    assert not rule.open


@pytest.mark.parametrize("method", every_method(), ids=lambda method: method.name)
def test_what_does_not_only_read_is_a_change(method: Method) -> None:
    name = method.name.partition("/")[2]
    assert RULES[method.service][name].changes is not name.startswith(READING)
