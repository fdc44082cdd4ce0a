"""The shape of the source tree, as the design lays it out."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "services" / "saeserve"
GENERATED = PACKAGE / "v1"
LIMITS = {"services": 300, "bench": 400, "tests": 400}
SERVICE_ROOMS = {
    "control": {"__main__", "settings", "server", "metrics", "servicers", "converters", "handlers"},
    "inference": {"__main__", "settings", "server", "metrics", "batcher", "model_cache", "engine"},
    "worker": {"__main__", "settings", "app", "metrics", "supervisor", "lease_keeper", "runners"},
}
# Written in pieces, as this file is searched as well.
FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.-])/(?:work|root|home|Users)" + "/",
            r"/opt/" + "pypi",
            r"pypi\." + "org",
            r"python" + "hosted",
            r"(?:docker|ghcr|quay|gcr|npmjs)\." + r"(?:io|org|com)\b",
            r"pytorch\." + "org",
            r"huggingface\." + "co",
        )
    )
)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file()]


def rooms() -> set[str]:
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_modules_stay_small() -> None:
    counted = {
        path: len(path.read_text().splitlines())
        for top in LIMITS
        for path in tracked(f"{top}/*.py")
        if GENERATED not in path.parents
    }
    assert counted
    limits = {path: LIMITS[path.relative_to(ROOT).parts[0]] for path in counted}
    assert {str(path): lines for path, lines in counted.items() if lines > limits[path]} == {}


def test_no_file_knows_a_machine_or_a_registry() -> None:
    found: list[str] = []
    for path in tracked():
        text = path.read_bytes().decode(errors="replace")
        for match in FOREIGN.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert found == []


@pytest.mark.parametrize("package", [".", "core"])
def test_packages_above_torch_are_empty(package: str) -> None:
    assert (PACKAGE / package / "__init__.py").read_bytes() == b""


def test_packages_hold_no_code() -> None:
    # The client's is the one public entry: what users import from saeserve.client.
    packages = set(PACKAGE.rglob("__init__.py")) - {PACKAGE / "client" / "__init__.py"}
    full = [
        str(path)
        for path in packages
        if not all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
    ]
    assert full == []


@pytest.mark.parametrize("room", SERVICE_ROOMS)
def test_service_rooms_have_the_parts_of_a_service(room: str) -> None:
    here = {path.stem for path in (PACKAGE / room).iterdir()}
    assert here >= SERVICE_ROOMS[room]


def test_every_room_stands_in_a_layer() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    placed = {
        room
        for contract in linter["contracts"]
        if contract.get("containers") == ["saeserve"] and contract["exhaustive"]
        for room in re.findall(r"\w+", " ".join(contract["layers"]))
    }
    assert rooms() <= placed
