"""Names and labels in PromQL expressions, for checking them against the code."""

from __future__ import annotations

import re

from tests.repo.metrics_page import labels_of

GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}
_NAME = re.compile(r"\b(saeserve[a-z0-9_:]*|up)\b(?=\s*[\[{)\s>]|$)")
_SELECTOR = re.compile(r"\b(saeserve[a-z0-9_]*)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def names_in(expression: str) -> set[str]:
    """Names of the series that an expression reads."""
    return set(_NAME.findall(_STRING.sub('""', expression)))


def unknown_labels(expression: str) -> set[str]:
    """Labels in selectors that the metric does not have."""
    known = labels_of()
    found: set[str] = set()
    for name, inside in _SELECTOR.findall(_STRING.sub('""', expression)):
        found |= set(_LABEL.findall(inside)) - known.get(name, set()) - GIVEN_BY_PROMETHEUS
    return found
