from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.specs.names import NAME
from saeserve.errors import InvalidInput
from saeserve.registry.references import Reference, checked_alias, parse_reference, resource_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sae", Reference("sae")),
        ("sae@3", Reference("sae", 3)),
        ("sae@prod", Reference("sae", 0, "prod")),
        ("models/sae/versions/12", Reference("sae", 12)),
    ],
)
def test_reads_every_form(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "Sae", "sae@", "sae@0", "sae@1@2", "../x", "a/b", "models/sae", "models/sae/versions/0",
     "models/../versions/1", "sae@9999999999", "sae@²", "sae\n"],
)  # fmt: skip
def test_refuses_everything_else_naming_the_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_reference(text, "spec.evaluate.model")
    assert caught.value.field == "spec.evaluate.model"


@given(st.from_regex(NAME, fullmatch=True), st.integers(1, 10**9 - 1))
def test_a_resource_reads_back(name: str, version: int) -> None:
    if ".." in name:
        return
    assert parse_reference(resource_of(name, version)) == Reference(name, version)


def test_an_alias_of_digits_is_refused() -> None:
    with pytest.raises(InvalidInput):
        checked_alias("3", "alias")
