"""The committed OpenAPI document is that of the code."""

from __future__ import annotations

import json

from tests.repo.openapi import PAGE, document


def test_the_document_is_that_of_the_code() -> None:
    assert PAGE.read_text() == document(), "run `make openapi`"


def test_every_answer_has_a_schema_and_a_text() -> None:
    paths = json.loads(PAGE.read_text())["paths"]
    assert paths
    for path, methods in paths.items():
        assert path.endswith(".json")
        assert set(methods) == {"get"}
        assert methods["get"]["summary"]
        answer = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert "$ref" in answer, path
