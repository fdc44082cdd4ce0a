"""Text reaches the terminal as it is, whatever brackets it holds."""

from __future__ import annotations

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
