"""What the list of presets says of where each is from."""

from __future__ import annotations

import pytest

from saeserve.cli.presets import origin
from saeserve.core.specs.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_where_a_preset_is_from_is_whole(name: str) -> None:
    source = PRESETS[name].source
    told = origin(source)
    assert told
    assert source.startswith(f"{told}:")
    assert told.count("(") == told.count(")"), "cut within parentheses"


def test_a_text_without_such_a_colon_is_kept() -> None:
    assert origin("Someone (here: there)") == "Someone (here: there)"
    assert origin("Someone: k = 3 (not: 4)") == "Someone"
