"""METRICS.md lists every metric that the services expose."""

from __future__ import annotations

import re

from tests.repo.metrics_page import PAGE, SECTIONS, metrics_of, page

SERVICES = PAGE.parent / "services"


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "run `make metrics-page`"


def test_every_metric_that_the_code_names_is_documented() -> None:
    """Also one that a new module makes and that the page's script does not know."""
    written = {
        name
        for file in SERVICES.rglob("*.py")
        for name in re.findall(
            r'(?:Gauge|Counter|Histogram)\(\s*"(saeserve_[a-z0-9_]+)"', file.read_text()
        )
    }
    known = {each.name for section in SECTIONS for each in metrics_of(section)}
    assert len(written) > 20
    assert {name for name in written if not {name, f"{name}_total"} & known} == set()
