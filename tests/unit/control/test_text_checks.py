"""What generate and annotate jobs are checked against before they are queued."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.control import Bench

from saeserve.errors import ServiceError

EDITS = [{"feature": 1, "add": 2.0}]
GENERATE: dict[str, Any] = {"model": "sae", "dataset": "acts", "prompts": ["a"], "edits": EDITS}
ANNOTATE: dict[str, Any] = {"model": "sae", "dataset": "acts", "texts": ["a"]}


@pytest.fixture
def harvested(bench: Bench) -> Bench:
    bench.ready("acts", language_model="files:lm")
    bench.publish("sae")
    return bench


def test_the_model_is_pinned_and_the_defaults_are_filled(harvested: Bench) -> None:
    record, _ = harvested.plan({"generate": GENERATE})
    resolved = record.submission.resolved_spec["generate"]
    assert resolved["model"] == "models/sae/versions/1"
    found = [resolved[name] for name in ("source", "positions", "max_new_tokens")]
    assert found == ["x", "all", 32]
    record, _ = harvested.plan({"annotate": ANNOTATE})
    assert record.submission.resolved_spec["annotate"]["long_texts"] == "refuse"


@pytest.mark.parametrize(
    ("kind", "changes", "code", "field"),
    [
        ("generate", {"edits": [{"feature": 10**6, "add": 1}]}, "INVALID_SPEC", "edits.0.feature"),
        ("generate", {"edits": []}, "INVALID_SPEC", "edits"),
        ("generate", {"edits": [*EDITS, {"feature": 1, "set": 1}]}, "INVALID_SPEC", "edits.1"),
        ("generate", {"prompts": []}, "INVALID_SPEC", "prompts"),
        ("generate", {"prompts": ["a"] * 17}, "INVALID_SPEC", "prompts"),
        ("generate", {"prompts": ["a" * 4097]}, "TOO_LONG", "prompts[0]"),
        ("generate", {"max_new_tokens": 257}, "INVALID_SPEC", "max_new_tokens"),
        (
            "generate",
            {"positions": "generated", "position_start": 1},
            "INVALID_SPEC",
            "positions",
        ),
        ("generate", {"position_start": 3, "position_stop": 3}, "INVALID_SPEC", "position_stop"),
        ("generate", {"position_start": -1}, "INVALID_SPEC", "position_start"),
        ("generate", {"dataset": "bare"}, "NO_LANGUAGE_MODEL", "dataset"),
        ("annotate", {"dataset": "bare"}, "NO_LANGUAGE_MODEL", "dataset"),
        ("annotate", {"texts": []}, "INVALID_SPEC", "texts"),
        ("annotate", {"features": 65}, "INVALID_SPEC", "features"),
        ("annotate", {"source": "y"}, "UNKNOWN_SOURCE", "source"),
        ("annotate", {"model": "gone"}, "MODEL_NOT_FOUND", "model"),
    ],
)
def test_wrong_specs_are_refused_by_field(
    harvested: Bench, kind: str, changes: dict[str, Any], code: str, field: str
) -> None:
    harvested.ready("bare")
    spec = (GENERATE if kind == "generate" else ANNOTATE) | changes
    with pytest.raises(ServiceError) as caught:
        harvested.submit({kind: spec})
    assert (caught.value.code, caught.value.field) == (code, f"spec.{kind}.{field}")
