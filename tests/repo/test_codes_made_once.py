"""Errors that several rooms raise are made by one function each, so that their texts agree."""

from __future__ import annotations

import ast

import pytest
from tests.repo.error_codes import SERVICES

ONCE = ("DATASET_NOT_READY", "JOB_NOT_FOUND", "REQUEST_ID_REUSED", "WORKER_LOST")


def made(code: str) -> list[str]:
    """Where the word is given to an error, as module:line."""
    return [
        f"{file.name}:{keyword.value.lineno}"
        for file in sorted((SERVICES / "saeserve").rglob("*.py"))
        if code in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("code", "reason")
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value == code
    ]


@pytest.mark.parametrize("code", ONCE)
def test_the_code_is_given_in_one_place(code: str) -> None:
    assert len(made(code)) == 1, made(code)
