"""An error's field grows as it passes from a part of a request to the whole."""

from __future__ import annotations

from saeserve.errors import InvalidInput, SpecError, SpecErrors
from saeserve.platform.status import refused_spec


def test_a_field_is_put_under_another() -> None:
    error = SpecError("topk.k", "0 is not a count", remedy="choose 1 or more").under("spec.train")
    assert error.field == "spec.train.topk.k"
    assert refused_spec(error).field == "spec.train.topk.k"
    assert InvalidInput("wrong").under("spec").field == "spec"


def test_each_of_several_is_put_under_another() -> None:
    several = SpecErrors([SpecError("k", "zero"), SpecError("lr", "negative")]).under("spec")
    assert several.field == "spec.k"
    assert [field for field, _ in refused_spec(several).violations] == ["spec.k", "spec.lr"]
