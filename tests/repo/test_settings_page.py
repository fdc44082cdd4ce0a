"""Every setting is documented, and known by name."""

from __future__ import annotations

import re

from tests.repo.settings_page import PAGE, SECTIONS, page

from saeserve.platform.setting_names import FIELDS, PREFIX


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "run `make settings-page`"


def test_every_setting_has_a_text_and_a_known_name() -> None:
    fields = {name for settings in SECTIONS.values() for name in settings.model_fields}
    assert fields == FIELDS
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert set(told) == {PREFIX + name.upper() for name in FIELDS}
    assert all(told.values())
