"""The limits that CONTRIBUTING states for modules and for rooms of the core are those enforced."""

from __future__ import annotations

import re
from pathlib import Path

from tests.repo.test_layout import LIMITS, PACKAGE, ROOT

CORE = PACKAGE / "core"
RULES = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())


def stated(sentence: str) -> list[int]:
    """The numbers that CONTRIBUTING has in the places of N."""
    found = re.search(sentence.replace(" N", r" ([\d,]+)"), RULES)
    assert found, f"CONTRIBUTING does not say: {sentence}"
    return [int(number.replace(",", "")) for number in found.groups()]


def lines(*folders: Path) -> int:
    return sum(
        len(path.read_text().splitlines()) for folder in folders for path in folder.rglob("*.py")
    )


def test_the_stated_limits_of_modules_are_enforced() -> None:
    services, others = stated(
        "Modules have at most N lines in `services/`, N in `tests/` and `bench/`"
    )
    assert {"services": services, "tests": others, "bench": others} == LIMITS


def test_the_loops_of_the_core_stay_small() -> None:
    (limit,) = stated("`core/kernels` and `core/ops` have fewer than N lines together")
    assert 0 < lines(CORE / "kernels", CORE / "ops") < limit


def test_no_room_of_the_core_is_too_large() -> None:
    (percent,) = stated("no room of the core has more than N % of its lines")
    rooms = {path.parent.name: lines(path.parent) for path in CORE.glob("*/__init__.py")}
    largest = percent / 100 * lines(CORE)
    assert len(rooms) > 8
    assert {room: size for room, size in rooms.items() if size > largest} == {}
