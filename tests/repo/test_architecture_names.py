"""What is known about one architecture stands with it: other rooms name none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS

PACKAGE = Path(__file__).parents[2] / "services" / "saeserve"
ROOMS = ("core/planning", "core/training", "core/export", "worker", "control", "cli", "registry")
NAMES = re.compile("|".join(ARCHITECTURE_SPECS), re.IGNORECASE)
# Torch's functions of these names, words that hold one, and the Hub's repositories with a gate.
OTHER = re.compile(
    r"\.(?:relu|topk)\(|\b(?:aggre|dele|propa|investi)gated|GatedRepo|is gated,", re.IGNORECASE
)
MOST_LINES = 150
"""Of a spec and its loss together, so that they can be compared with the paper at one sitting."""
ALLOWED: set[str] = set()
"""Lines that may name one, as "path: line": none does, for tables are made from the specs."""


def named(text: str) -> bool:
    return NAMES.search(OTHER.sub("", text)) is not None


def test_no_other_room_names_an_architecture() -> None:
    paths = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]
    assert len(paths) > len(ROOMS)
    found = {
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in paths
        for line in path.read_text().splitlines()
        if named(line)
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("spec", "loss"), [("topk", "loss"), ("batchtopk", "batchtopk"), ("matryoshka", "matryoshka")]
)
def test_spec_and_loss_of_the_topk_family_are_short_and_not_fast(spec: str, loss: str) -> None:
    texts = [
        (PACKAGE / "core/specs/architectures" / f"{spec}.py").read_text(),
        (PACKAGE / "core/architectures/topk" / f"{loss}.py").read_text(),
    ]
    assert sum(len(text.splitlines()) for text in texts) <= MOST_LINES
    fast = re.compile(r"^from \S*(?:fast|sparse|kernels|active)", re.MULTILINE)
    assert not any(fast.search(text) for text in texts)


def test_a_name_is_noticed() -> None:
    assert named('if spec.name == "topk":')
    assert named("from x import JumpReluSpec")
    assert not named("values.relu() + h.topk(k), aggregated")
