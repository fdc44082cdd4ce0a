"""Text reaches the terminal as it is, whatever brackets it holds."""

from __future__ import annotations

import json

import pytest

from saeserve.cli import output
from saeserve.cli.output import console, styled, told
from saeserve.cli.tables import print_fields, print_table

TEXTS = ["[all]", "[/b]", "a[/foo]b", "[red]", "shape [rows, d_in]", ":warning:", "[bold", "\\[x]"]


@pytest.mark.parametrize("text", TEXTS)
def test_brackets_are_text(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 200)
    told(f"told {text}", None, as_json=False)
    print_table((text, "b"), [(text, f"x {text}"), (styled("red", text), None)], title=text)
    print_fields([(f"name {text}", text)])
    console.print(styled("red", text, f": {text}"))
    output.errors.print(text)
    seen = capsys.readouterr()
    assert seen.out.count(text) == 10
    assert text in seen.err


VIOLATIONS = [("train.model", "train.model: is required — set it"), ("train.k", "train.k [x]: no")]


def test_each_field_that_is_wrong_has_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the spec has 2 errors: train.model: is required; train.k: no"
    output.print_refusal("INVALID_SPEC", text, VIOLATIONS)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "INVALID_SPEC: the spec has 2 errors:",
        *(f"  {what}" for _, what in VIOLATIONS),
    ]
    monkeypatch.setattr("sys.argv", ["saeserve", "--json"])
    output.print_refusal("INVALID_SPEC", text, VIOLATIONS)
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["message"] == text
    assert [each["field"] for each in error["violations"]] == ["train.model", "train.k"]
